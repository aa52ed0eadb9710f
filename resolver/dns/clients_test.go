package dns_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/resolver"
)

// askC prints the addresses that the C library finds for a name, or its error.
const askC = `
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all, *a;
	int err = getaddrinfo(argv[1], 0, &hints, &all);
	if (err) { printf("%s\n", err == EAI_NONAME ? "no such name" : gai_strerror(err)); return 0; }
	for (a = all; a; a = a->ai_next) {
		char text[64];
		getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
		printf("%s\n", text);
	}
	return 0;
}
`

// TestClients: people's own resolvers understand us: those of glibc, musl and Go, dig, and dnsperf, which loses nothing.
func TestClients(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", outside(t))
	w.resolvConf(false, "127.0.0.1")
	w.zone(blue, "blue", published("1", "both", "10.1.0.2/24", "fd00:1::2/64"), published("2", "four", "10.1.0.3/24"))
	w.set(w.space(), resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}, Forward: true})
	in := w.inside["a"]
	in.Run("ip", "addr", "add", "10.1.0.9/24", "dev", "lo")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	source := write("ask.c", askC)
	conf := write("resolv.conf", "nameserver 127.0.0.11\noptions ndots:0\n")
	for compiler, program := range map[string]string{"gcc": "glibc", "musl-gcc": "musl"} {
		binary := filepath.Join(dir, program)
		if out, err := exec.Command(compiler, "-o", binary, source).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", compiler, err, out)
		}
		for name, want := range map[string]string{"both": "10.1.0.2 fd00:1::2", "four": "10.1.0.3", "four.blue": "10.1.0.3",
			"www.example.com": "192.0.2.80", "nothing.example.com": "no such name"} {
			out := in.Run("unshare", "-m", "sh", "-c", "mount --bind "+conf+" /etc/resolv.conf && exec "+binary+" "+name)
			if got := sortedWords(out); got != want {
				t.Errorf("%s %s: %q, want %q", program, name, got, want)
			}
		}
	}
	goResolver := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return in.Dial(network, "127.0.0.11:53")
	}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if got, err := goResolver.LookupHost(ctx, "both.blue."); err != nil || len(got) != 2 {
		t.Errorf("Go: %v, %v", got, err)
	}
	if got := in.Run("dig", "+short", "@127.0.0.11", "four"); strings.TrimSpace(got) != "10.1.0.3" {
		t.Errorf("dig: %s", got)
	}
	if got := in.Run("dig", "+tcp", "+noall", "+answer", "@127.0.0.11", "-x", "10.1.0.2"); !strings.Contains(got, "both.blue.") {
		t.Errorf("dig -x: %s", got)
	}
	questions := write("questions", "both A\nboth AAAA\nfour A\nfour AAAA\nfour.blue A\n")
	out := in.Run("dnsperf", "-s", "127.0.0.11", "-d", questions, "-n", "200", "-c", "4", "-t", "5")
	if !strings.Contains(strings.Join(strings.Fields(out), " "), "Queries lost: 0 (0.00%)") {
		t.Errorf("dnsperf: %s", out)
	}
}

func sortedWords(text string) string {
	words := strings.Fields(text)
	if strings.HasPrefix(text, "no such") {
		return strings.TrimSpace(text)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}
