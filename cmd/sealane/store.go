package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/consul"
	"github.com/sealane/sealane/datastore/etcd"
)

// storeFlags say which store hosts share. Secrets are in files: everybody can read a command line.
type storeFlags struct {
	url          string
	ca           string
	cert         string
	key          string
	tokenFile    string
	user         string
	passwordFile string
}

func (f *storeFlags) declare(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "store", "bolt", "where networks that hosts share are kept: bolt (there are none), consul://H:P,H:P[/prefix] or etcd://H:P,H:P[/prefix]")
	flags.StringVar(&f.ca, "store-ca", "", "file of the CA certificates of the store's servers; this or --store-cert has TLS used")
	flags.StringVar(&f.cert, "store-cert", "", "file of the certificate that is shown to the store")
	flags.StringVar(&f.key, "store-key", "", "file of its key")
	flags.StringVar(&f.tokenFile, "store-token-file", "", "file of Consul's access token")
	flags.StringVar(&f.user, "store-user", "", "etcd's user")
	flags.StringVar(&f.passwordFile, "store-password-file", "", "file of the password of --store-user")
}

// storeURL is what --store says.
type storeURL struct {
	scheme string // "bolt", "consul", "etcd"
	hosts  []string
	prefix string
}

// parse refuses what cannot be meant. It repeats nothing of a URL in which there may be a secret.
func (f storeFlags) parse() (u storeURL, err error) {
	bad := func(why string) error {
		return fmt.Errorf("--store %.200s: %w: %s", f.url, errdefs.ErrInvalidArgument, why)
	}
	if strings.Contains(f.url, "@") {
		return u, fmt.Errorf("--store: %w: a user or secret does not belong there: see --store-user, --store-password-file, --store-token-file",
			errdefs.ErrInvalidArgument)
	}
	scheme, rest, isURL := strings.Cut(f.url, "://")
	u.scheme = scheme
	if isURL != (scheme == "consul" || scheme == "etcd") || !isURL && scheme != "bolt" {
		return u, bad("want bolt, consul://H:P,H:P[/prefix] or etcd://H:P,H:P[/prefix]")
	}
	if err := f.match(scheme); err != nil || !isURL {
		return u, err
	}
	hosts, prefix, _ := strings.Cut(rest, "/")
	u.hosts, u.prefix = strings.Split(hosts, ","), prefix
	for _, h := range u.hosts {
		host, port, err := net.SplitHostPort(h)
		if err != nil || host == "" || port == "" {
			return u, bad("want host:port, IPv6 in brackets")
		}
	}
	_, err = datastore.NewLayout(prefix)
	if err != nil {
		return u, fmt.Errorf("--store %.200s: %w", f.url, err)
	}
	return u, nil
}

// match refuses flags that the store has no use for, or that are one without the other.
func (f storeFlags) match(scheme string) error {
	for _, flag := range []struct {
		name, value string
		of          string
	}{
		{"store-ca", f.ca, "consul etcd"},
		{"store-cert", f.cert, "consul etcd"},
		{"store-key", f.key, "consul etcd"},
		{"store-token-file", f.tokenFile, "consul"},
		{"store-user", f.user, "etcd"},
		{"store-password-file", f.passwordFile, "etcd"},
	} {
		if flag.value != "" && !strings.Contains(flag.of, scheme) {
			return fmt.Errorf("--%s: %w: --store %s has no use for it", flag.name, errdefs.ErrInvalidArgument, scheme)
		}
	}
	if (f.cert == "") != (f.key == "") {
		return fmt.Errorf("--store-cert, --store-key: %w: want both or neither", errdefs.ErrInvalidArgument)
	}
	if (f.user == "") != (f.passwordFile == "") {
		return fmt.Errorf("--store-user, --store-password-file: %w: want both or neither", errdefs.ErrInvalidArgument)
	}
	return nil
}

// open opens the store; nil for bolt. Whether its servers are there is not asked: what this host does alone goes on without them.
func (f storeFlags) open() (datastore.Store, error) {
	u, err := f.parse()
	if err != nil || u.scheme == "bolt" {
		return nil, err
	}
	secure, err := f.tls()
	if err != nil {
		return nil, err
	}
	token, err := secret("store-token-file", f.tokenFile)
	if err != nil {
		return nil, err
	}
	password, err := secret("store-password-file", f.passwordFile)
	if err != nil {
		return nil, err
	}
	if u.scheme == "consul" {
		return consul.Open(consul.Options{Addresses: u.hosts, Prefix: u.prefix, TLS: secure, Token: token})
	}
	return etcd.Open(etcd.Options{Endpoints: u.hosts, Prefix: u.prefix, TLS: secure, User: f.user, Password: password})
}

// tls is nil when nothing asks for it.
func (f storeFlags) tls() (*tls.Config, error) {
	if f.ca == "" && f.cert == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		text, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--store-ca: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--store-ca %s: %w: there is no certificate in it", f.ca, errdefs.ErrInvalidArgument)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--store-cert, --store-key: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// secret reads the one line of a file; "" when there is no file to read.
func secret(flag, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("--%s: %w: %w", flag, errdefs.ErrInvalidArgument, err)
	}
	line := strings.TrimRight(string(text), "\r\n")
	if line == "" || strings.ContainsAny(line, "\r\n") {
		return "", fmt.Errorf("--%s %s: %w: want one line", flag, path, errdefs.ErrInvalidArgument)
	}
	return line, nil
}
