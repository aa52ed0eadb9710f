package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// Sockets is where Docker has its plugins' sockets.
const Sockets = "/run/docker/plugins"

// Options say where plugins are and how long they may take.
type Options struct {
	// Sockets has NAME.sock or NAME/NAME.sock; "": the constant.
	Sockets string
	// Specs have NAME.spec (a URL, unix:// or tcp://) or NAME.json (name, address and TLS files), or either in a directory NAME, and come
	// after Sockets; nil: /etc/docker/plugins, then /usr/lib/docker/plugins.
	Specs []string
	// Timeout is what one verb may take; 0: 10 s.
	Timeout time.Duration
}

// Plugins finds plugins by name and makes drivers of them. Safe for concurrent use.
type Plugins struct {
	o     Options
	mu    sync.Mutex // guards known
	known map[string]*plugin
}

// New looks nowhere yet: a plugin is looked for when its name is used, and asked when it is called.
func New(o Options) *Plugins {
	const patience = 10 * time.Second
	if o.Sockets == "" {
		o.Sockets = Sockets
	}
	if o.Specs == nil {
		o.Specs = []string{"/etc/docker/plugins", "/usr/lib/docker/plugins"}
	}
	if o.Timeout == 0 {
		o.Timeout = patience
	}
	return &Plugins{o: o, known: map[string]*plugin{}}
}

// Find makes drivers of the plugin of that name, without asking it anything; nil drivers when there is none. Their verbs fail with
// Unavailable while it does not answer, and with InvalidArgument when it does not implement what it is used as. PermissionDenied: others
// than root could be behind the name. It is what sealane.Options.Find wants.
func (p *Plugins) Find(_ context.Context, name string) (netdriver.Driver, ipam.Driver, error) {
	if !validName.MatchString(name) {
		return nil, nil, nil
	}
	at, err := p.look(name)
	if err != nil {
		return nil, nil, fmt.Errorf("plugin %s: %w", name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.known[name]
	if known != nil && known.at.id != at.id {
		known.close()
		known = nil
		delete(p.known, name)
	}
	if at.network == "" {
		return nil, nil, nil
	}
	if known == nil {
		known = newPlugin(name, at, p.o.Timeout)
		p.known[name] = known
	}
	return networkClient{known}, ipamClient{known}, nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// address is where a plugin is. The zero value is nowhere.
type address struct {
	network, addr string      // of net.Dial
	tls           *tls.Config // nil: none
	id            string      // another when the file behind it is another: then the plugin may be
}

// look goes through the directories in Docker's order.
func (p *Plugins) look(name string) (address, error) {
	for _, path := range paths(p.o.Sockets, name, ".sock") {
		if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
			id, err := trusted(path)
			return address{network: "unix", addr: path, id: id}, err
		}
	}
	for _, dir := range p.o.Specs {
		for _, ext := range []string{".spec", ".json"} {
			for _, path := range paths(dir, name, ext) {
				if _, err := os.Stat(path); err != nil {
					continue
				}
				return readSpec(path)
			}
		}
	}
	return address{}, nil
}

func paths(dir, name, ext string) []string {
	return []string{filepath.Join(dir, name+ext), filepath.Join(dir, name, name+ext)}
}

// trusted makes sure that nobody but root decides what is at path, and tells one file there from the next.
func trusted(path string) (id string, err error) {
	var s unix.Stat_t
	for _, p := range []string{filepath.Dir(path), path} {
		if err := unix.Stat(p, &s); err != nil {
			return "", err
		}
		if s.Uid != 0 || s.Mode&unix.S_IWOTH != 0 {
			return "", fmt.Errorf("%s belongs to user %d with mode %#o: %w: it must be root's and not writable by everybody", p, s.Uid,
				s.Mode&0o7777, errdefs.ErrPermissionDenied)
		}
	}
	return fmt.Sprintf("%s %d %d %d.%d", path, s.Dev, s.Ino, s.Ctim.Sec, s.Ctim.Nsec), nil
}

// readSpec reads a file that says where a plugin is.
func readSpec(path string) (a address, err error) {
	const longest = 64 << 10
	id, err := trusted(path)
	if err != nil {
		return a, err
	}
	f, err := os.Open(path)
	if err != nil {
		return a, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, longest))
	if err != nil {
		return a, err
	}
	if filepath.Ext(path) == ".json" {
		a, err = parseJSON(text)
	} else {
		a, err = parseURL(strings.TrimSpace(string(text)), nil)
	}
	if err != nil {
		return address{}, fmt.Errorf("%s: %w", path, err)
	}
	if a.network == "unix" {
		socket, err := trusted(a.addr)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // one that is not there yet may come
			return address{}, err
		}
		id += " " + socket
	}
	a.id = id
	return a, nil
}

// spec is a .json file.
type spec struct {
	Name, Addr string
	TLSConfig  *struct {
		InsecureSkipVerify        bool
		CAFile, CertFile, KeyFile string
	}
}

func parseJSON(text []byte) (address, error) {
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		return address{}, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	if s.TLSConfig == nil {
		return parseURL(s.Addr, nil)
	}
	config := &tls.Config{InsecureSkipVerify: s.TLSConfig.InsecureSkipVerify, MinVersion: tls.VersionTLS12}
	if s.TLSConfig.CAFile != "" {
		ca, err := os.ReadFile(s.TLSConfig.CAFile)
		if err != nil {
			return address{}, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return address{}, fmt.Errorf("%s has no certificate: %w", s.TLSConfig.CAFile, errdefs.ErrInvalidArgument)
		}
	}
	if s.TLSConfig.CertFile != "" || s.TLSConfig.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(s.TLSConfig.CertFile, s.TLSConfig.KeyFile)
		if err != nil {
			return address{}, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return parseURL(s.Addr, config)
}

// parseURL reads unix:///path or tcp://host:port. Without TLS everybody on the way could be the plugin, so that TCP is for loopback then.
func parseURL(text string, config *tls.Config) (address, error) {
	u, err := url.Parse(text)
	if err != nil {
		return address{}, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return address{}, fmt.Errorf("%.200q: %w: want unix:// and an absolute path", text, errdefs.ErrInvalidArgument)
		}
		return address{network: "unix", addr: filepath.Clean(u.Path)}, nil
	case "tcp", "http", "https":
	default:
		return address{}, fmt.Errorf("%.200q: %w: want unix:// or tcp://", text, errdefs.ErrInvalidArgument)
	}
	if u.Port() == "" || u.Hostname() == "" {
		return address{}, fmt.Errorf("%.200q: %w: want tcp://host:port", text, errdefs.ErrInvalidArgument)
	}
	if u.Scheme == "https" && config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if config == nil && !loopback(u.Hostname()) {
		return address{}, fmt.Errorf("%.200q: %w: over TCP without TLS only loopback addresses are used; name certificates in a .json file",
			text, errdefs.ErrPermissionDenied)
	}
	if config != nil && config.ServerName == "" {
		config.ServerName = u.Hostname()
	}
	return address{network: "tcp", addr: net.JoinHostPort(u.Hostname(), u.Port()), tls: config}, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || host == "localhost"
}

// probe says why a plugin does not answer, as far as that is known or seen at once.
func (p *plugin) probe(ctx context.Context) error {
	const moment = 250 * time.Millisecond
	if err := p.breaker.enter(time.Now()); err != nil {
		return fmt.Errorf("plugin %s: %w", p.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, p.at.network, p.at.addr)
	p.breaker.givenUp() // that somebody listens is no answer
	if err != nil {
		return fmt.Errorf("plugin %s: %w: %w", p.name, errdefs.ErrUnavailable, err)
	}
	return c.Close()
}

// Close lets go of idle connections. Verbs under way go on.
func (p *Plugins) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range p.known {
		known.close()
	}
	return nil
}
