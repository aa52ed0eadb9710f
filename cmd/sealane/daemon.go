package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/api"
	"github.com/sealane/sealane/datastore/bolt"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/holder"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/block"
	"github.com/sealane/sealane/ipam/null"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/remote"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/sandbox/netns"
)

// readyNamespaces are kept made beforehand: making one is half of an attach.
const readyNamespaces = 4

// daemon is what serve opens, step by step, and closes in reverse.
type daemon struct {
	settings
	log     *slog.Logger
	closers []func() error

	given      []*os.File // that systemd opened, or kept for us, by their names; none without it
	host       string     // id of this host
	lost       bool       // a store is new, though what it was to remember may still run
	options    sealane.Options
	spaces     *netns.Provider
	resolver   *dns.Resolver // nil: none
	controller *sealane.Controller
	server     *api.Server
	listener   net.Listener
}

func (d *daemon) closing(f func() error) { d.closers = append(d.closers, f) }

func (d *daemon) close() error {
	var errs []error
	for _, f := range slices.Backward(d.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// openDirectories makes them, or makes sure that nobody else can write in them.
func (d *daemon) openDirectories(context.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: it makes network namespaces, links and firewall rules: run it as root", errdefs.ErrPermissionDenied)
	}
	for _, dir := range []*string{&d.run, &d.root} {
		abs, err := filepath.Abs(*dir)
		if err == nil {
			*dir = abs
			err = ownDirectory(abs)
		}
		if err != nil {
			return fmt.Errorf("directory %s: %w", *dir, err)
		}
	}
	return nil
}

func ownDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var s unix.Stat_t
	if err := unix.Lstat(dir, &s); err != nil {
		return err
	}
	switch {
	case s.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%w: it is no directory", errdefs.ErrFailedPrecondition)
	case int(s.Uid) != os.Geteuid():
		return fmt.Errorf("%w: it belongs to user %d", errdefs.ErrPermissionDenied, s.Uid)
	case s.Mode&0o022 != 0:
		return fmt.Errorf("%w: others may write in it: chmod go-w", errdefs.ErrPermissionDenied)
	}
	return nil
}

// openStores takes both directories for this daemon alone, and reads whose they are.
func (d *daemon) openStores(context.Context) error {
	run, err := d.openStore(d.run, bolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	root, err := d.openStore(d.root, bolt.Options{})
	if err != nil {
		return err
	}
	d.options.Run, d.options.Root, d.options.Quarantined = run, root, d.lost
	if d.options.Cluster, err = d.store.open(); err != nil {
		return err
	}
	if d.options.Cluster != nil {
		d.closing(d.options.Cluster.Close)
	}
	kept, err := readLine(d.instanceFile())
	if err != nil {
		return err
	}
	if kept != "" && d.instance != "" && kept != d.instance {
		return fmt.Errorf("--instance %s: %w: %s is of instance %s", d.instance, errdefs.ErrFailedPrecondition, d.root, kept)
	}
	d.instance = cmp.Or(kept, d.instance, "sealane")
	hostFile := filepath.Join(d.root, "host")
	if d.host, err = readLine(hostFile); err == nil && d.host == "" {
		d.host = randomID()
		err = writeLine(hostFile, d.host)
	}
	return err
}

// instanceFile says whose marks the kernel has that belong to the root directory.
func (d *daemon) instanceFile() string { return filepath.Join(d.root, "instance") }

// openStore opens the store of a directory. One that is damaged is put aside and told, so that what runs can be taken over.
func (d *daemon) openStore(dir string, o bolt.Options) (*bolt.Store, error) {
	path := filepath.Join(dir, "store.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		d.lost = true
	}
	store, err := bolt.Open(path, o)
	var damaged *bolt.Corrupt
	if errors.As(err, &damaged) {
		moved, qerr := bolt.Quarantine(path)
		if qerr != nil {
			return nil, qerr
		}
		d.lost = true
		d.log.Error("a store is damaged and begins empty; what runs goes on as unknown", "store", path, "reason", damaged.Reason, "kept", moved)
		store, err = bolt.Open(path, o)
	}
	if errdefs.IsFailedPrecondition(err) {
		return nil, fmt.Errorf("directory %s: another daemon works with it: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	d.closing(store.Close)
	return store, nil
}

// readLine reads a file of one line; "" when there is none.
func readLine(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return strings.TrimSpace(string(text)), err
}

// writeLine writes a file of one line, all of it or nothing, whatever happens to the machine meanwhile.
func writeLine(path, line string) error {
	const unfinished = ".new"
	f, err := os.OpenFile(path+unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+unfinished, path)
}

func randomID() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// openRooms opens what works on the kernel. It is here that a second daemon of one name in one network namespace is refused.
func (d *daemon) openRooms(ctx context.Context) error {
	pools, err := pool.New(pool.Options{HostID: d.host})
	if err != nil {
		return err
	}
	var addresses ipam.Driver = pools
	if d.options.Cluster != nil {
		if addresses, err = d.openCluster(ctx, pools); err != nil {
			return err
		}
	}
	d.options.IPAM = map[string]ipam.Driver{"default": addresses, "null": null.New()}
	d.options.Drivers = drivers.All()
	d.options.Instance = d.instance
	d.options.Logger = d.log
	where := remote.Options{Sockets: d.plugins}
	if d.plugins != "" {
		where.Specs = []string{d.plugins}
	}
	plugins := remote.New(where)
	d.closing(plugins.Close)
	d.options.Find = d.find(plugins)
	return d.openSpaces()
}

// openSpaces opens what makes namespaces, and the firewalls in them.
func (d *daemon) openSpaces() error {
	o := netns.Options{Run: d.run, Instance: d.instance, Ready: readyNamespaces}
	socketWall := netns.Kind{Domain: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_NETFILTER}
	if d.firewall != "none" { // what each sandbox is entered for: the resolver's sockets, and that by which the firewall leads to them
		o.Sockets = []netns.Kind{{Domain: unix.AF_INET, Type: unix.SOCK_DGRAM}, {Domain: unix.AF_INET, Type: unix.SOCK_STREAM}, socketWall}
	}
	spaces, err := netns.New(o)
	if errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("%w: give this one another --instance, with directories of its own", err)
	}
	if err != nil {
		return err
	}
	d.closing(spaces.Close)
	d.options.Spaces, d.spaces = spaces, spaces
	if d.firewall != "none" {
		wall := func(path string) (int, error) { return spaces.Socket(path, socketWall) }
		if d.options.Firewalls, err = nftables.New(nftables.Options{Instance: d.instance, Socket: wall}); err != nil {
			return err
		}
	}
	d.options.Files = resolver.Directory{Path: sandboxFiles(d.run)}
	return writeLine(d.instanceFile(), d.instance)
}

// openCluster says who this host is to the others, and returns what gives addresses of networks that they share.
func (d *daemon) openCluster(ctx context.Context, pools ipam.Driver) (_ ipam.Driver, err error) {
	d.options.Host = d.host
	if d.options.Hostname, err = os.Hostname(); err != nil {
		return nil, err
	}
	if d.options.Advertise, err = advertised(d.advertise, d.store.url); err != nil {
		return nil, err
	}
	d.options.HostLost = d.hostLost
	return block.New(ctx, block.Options{Pool: pools, Store: d.options.Cluster, Kept: d.options.Run, Host: d.host})
}

// openResolver takes over the sockets that an earlier daemon left with systemd or the holder. Without a firewall nothing would lead to it.
func (d *daemon) openResolver(context.Context) error {
	if d.options.Firewalls == nil {
		return nil
	}
	var keeper interface {
		dns.Keeper
		io.Closer
	}
	process := newHolder(d.run)
	keeper = process
	if store, able := holder.NewSystemd("resolver-", d.given, process); able {
		keeper = store
	}
	d.closing(keeper.Close)
	socket := func(path string, typ int) (int, error) {
		return d.spaces.Socket(path, netns.Kind{Domain: unix.AF_INET, Type: typ})
	}
	var listeners []dns.Listener
	for _, text := range d.listeners {
		l, err := parseListener(text)
		if err != nil {
			return fmt.Errorf("--dns-listen %.80s: %w", text, err)
		}
		listeners = append(listeners, l)
	}
	names, err := dns.New(dns.Options{Keeper: keeper, Socket: socket, Listeners: listeners})
	if err != nil {
		return err
	}
	d.closing(names.Close)
	d.resolver, d.options.Resolver, d.options.AtGateways = names, names, d.names
	return nil
}

// answerNames begins to answer at --dns-listen, since all names were told.
func (d *daemon) answerNames(context.Context) error {
	if d.resolver == nil {
		return nil
	}
	return d.resolver.Listen()
}

// openController restores. When it returns what the records say is so.
func (d *daemon) openController(ctx context.Context) error {
	ctl, err := sealane.New(ctx, d.options)
	if err != nil {
		return err
	}
	d.controller = ctl
	d.closing(ctl.Close)
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	d.server, err = api.NewServer(ctx, ctl, api.Options{
		Host: api.Host{ID: d.host, Name: name, State: api.StateReady}, Version: about(), Logger: d.log,
	})
	return err
}
