package remote_test

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/remote"
)

// named answers activation, and refuses to be deleted from in its own name.
func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/Plugin.Activate" {
			io.WriteString(w, `{"Implements": ["NetworkDriver"]}`)
			return
		}
		io.WriteString(w, `{"Err": "`+name+`"}`)
	})
}

func listenAt(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: named(path)}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Plugins are found where engines find them, in their order.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	o := remote.Options{Sockets: dir + "/run", Specs: []string{dir + "/etc", dir + "/lib"}}
	spare := dir + "/spare.sock"
	listenAt(t, spare)
	listenAt(t, dir+"/run/flat.sock")
	listenAt(t, dir+"/run/deep/deep.sock")
	write(t, dir+"/etc/flat.spec", "unix:///nowhere")
	write(t, dir+"/etc/text.spec", " unix://"+spare+"\n")
	write(t, dir+"/lib/text.spec", "unix:///nowhere")
	write(t, dir+"/lib/sub/sub.spec", "unix://"+spare)
	write(t, dir+"/lib/json.json", `{"Name": "json", "Addr": "unix://`+spare+`"}`)
	plain := httptest.NewServer(named("tcp"))
	t.Cleanup(plain.Close)
	write(t, dir+"/etc/tcp.spec", "tcp://"+plain.Listener.Addr().String())
	secure := httptest.NewTLSServer(named("tls"))
	t.Cleanup(secure.Close)
	write(t, dir+"/ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	tls, _ := json.Marshal(map[string]any{"Name": "tls", "Addr": "tcp://" + secure.Listener.Addr().String(), "TLSConfig": map[string]any{"CAFile": dir + "/ca.pem"}})
	write(t, dir+"/etc/tls.json", string(tls))
	write(t, dir+"/etc/strange.json", strings.Replace(string(tls), dir+"/ca.pem", "", 1))
	if err := os.Symlink(spare, dir+"/run/link.sock"); err != nil {
		t.Fatal(err)
	}
	in, _ := record()
	for name, want := range map[string]string{
		"flat": dir + "/run/flat.sock", "deep": dir + "/run/deep/deep.sock", "text": spare, "sub": spare, "json": spare, "link": spare,
		"tcp": "tcp", "tls": "tls", "strange": "certificate",
	} {
		d, _ := find(t, o, name)
		if err := d.DeleteNetwork(t.Context(), in.Network); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	plugins := remote.New(o)
	for _, name := range []string{"none", "", "../etc/text", "a/b", ".hidden", strings.Repeat("x", 65)} {
		if d, a, err := plugins.Find(t.Context(), name); d != nil || a != nil || err != nil {
			t.Errorf("%q: %v, %v, %v", name, d, a, err)
		}
	}
}

// What others than root could be behind is not used.
func TestFindRefuses(t *testing.T) {
	dir := t.TempDir()
	o := remote.Options{Sockets: dir + "/run", Specs: []string{dir + "/etc"}}
	listenAt(t, dir+"/run/open.sock")
	listenAt(t, dir+"/run/alien.sock")
	listenAt(t, dir+"/run/pub/pub.sock")
	listenAt(t, dir+"/spare.sock")
	write(t, dir+"/etc/openspec.spec", "unix://"+dir+"/spare.sock")
	write(t, dir+"/etc/alienspec.json", `{"Addr": "unix://`+dir+`/spare.sock"}`)
	write(t, dir+"/etc/behind.spec", "unix://"+dir+"/run/open.sock")
	for _, err := range []error{os.Chmod(dir+"/run/open.sock", 0o666), os.Chown(dir+"/run/alien.sock", 1000, 0), os.Chmod(dir+"/run/pub", 0o777),
		os.Chmod(dir+"/etc/openspec.spec", 0o646), os.Chown(dir+"/etc/alienspec.json", 1000, 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/etc/far.spec", "tcp://192.0.2.1:80")
	write(t, dir+"/etc/name.spec", "tcp://plugins.example:80")
	write(t, dir+"/etc/word.spec", "weave")
	write(t, dir+"/etc/scheme.spec", "npipe:////./pipe/x")
	write(t, dir+"/etc/half.spec", "tcp://127.0.0.1")
	write(t, dir+"/etc/relative.spec", "unix://run/x.sock")
	write(t, dir+"/etc/broken.json", "{")
	write(t, dir+"/etc/noca.json", `{"Addr": "tcp://127.0.0.1:1", "TLSConfig": {"CAFile": "/nowhere"}}`)
	plugins := remote.New(o)
	for name, is := range map[string]func(error) bool{
		"open": errdefs.IsPermissionDenied, "alien": errdefs.IsPermissionDenied, "pub": errdefs.IsPermissionDenied,
		"openspec": errdefs.IsPermissionDenied, "alienspec": errdefs.IsPermissionDenied, "behind": errdefs.IsPermissionDenied,
		"far": errdefs.IsPermissionDenied, "name": errdefs.IsPermissionDenied,
		"word": errdefs.IsInvalidArgument, "scheme": errdefs.IsInvalidArgument, "half": errdefs.IsInvalidArgument,
		"relative": errdefs.IsInvalidArgument, "broken": errdefs.IsInvalidArgument, "noca": os.IsNotExist,
	} {
		d, _, err := plugins.Find(t.Context(), name)
		if d != nil || err == nil || !is(err) && !(name == "noca" && strings.Contains(err.Error(), "no such file")) {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
}

// Another plugin in the place of the last is asked anew, at once, whatever is known of the last.
func TestFindAgain(t *testing.T) {
	dir := t.TempDir()
	plugins := remote.New(remote.Options{Sockets: dir})
	in, _ := record()
	ask := func() error {
		d, _, err := plugins.Find(t.Context(), "p")
		if err != nil || d == nil {
			t.Fatalf("find: %v, %v", d, err)
		}
		return d.DeleteNetwork(t.Context(), in.Network)
	}
	l, err := net.Listen("unix", dir+"/p.sock")
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if err := ask(); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
	if err := os.Remove(dir + "/p.sock"); err != nil {
		t.Fatal(err)
	}
	if d, _, err := plugins.Find(t.Context(), "p"); d != nil || err != nil {
		t.Errorf("no socket: %v, %v", d, err)
	}
	listenAt(t, dir+"/p.sock")
	if err := ask(); err == nil || !strings.HasSuffix(err.Error(), "p.sock") {
		t.Errorf("it is back: %v", err)
	}
}
