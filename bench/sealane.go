package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore/bolt"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

// ours is sealane's Controller with the rooms that its daemon has, stores included; they are in memory as those of the others.
type ours struct {
	mode    Mode
	control *sealane.Controller
	network sealane.Network
	spaces  *netns.Provider
	run     *bolt.Store
	root    *bolt.Store
	close   []func() error // in this order
}

type oursAttachment struct {
	sandbox  sandbox.Sandbox
	endpoint endpoint.Endpoint
}

const (
	oursDir     = "/run/sealane" // of the mount namespace that this process has for itself
	oursNetwork = "bench"
	oursReady   = 16 // namespaces in the pool
)

func newOurs(mode Mode) (*ours, error) {
	o := &ours{mode: mode}
	if err := o.start(); err != nil {
		return nil, err
	}
	spec := sealane.NetworkSpec{
		Name: oursNetwork, Driver: "bridge", IPv6: mode.IPv6,
		IPAM: sealane.IPAM{Subnets: []sealane.SubnetSpec{{Subnet: netip.MustParsePrefix("10.212.0.0/16")}}},
	}
	if mode.IPv6 {
		spec.IPAM.Subnets = append(spec.IPAM.Subnets, sealane.SubnetSpec{Subnet: netip.MustParsePrefix("fd00:212::/64")})
	}
	var err error
	o.network, err = o.control.CreateNetwork(context.Background(), spec)
	return o, err
}

// start opens the rooms and the Controller.
func (o *ours) start() error {
	if err := os.MkdirAll(oursDir, 0o711); err != nil {
		return err
	}
	run, err := bolt.Open(filepath.Join(oursDir, "run.db"), bolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	o.close = append(o.close, run.Close)
	root, err := bolt.Open(filepath.Join(oursDir, "root.db"), bolt.Options{})
	if err != nil {
		return err
	}
	o.close = append(o.close, root.Close)
	ready := 0
	if o.mode.Pool {
		ready = oursReady
	}
	r, err := newRooms(ready)
	if err != nil {
		return err
	}
	o.spaces = r.spaces
	o.close = append(o.close, dismiss, r.spaces.Close, r.resolver.Close)
	var names resolver.Resolver
	if o.mode.Resolver {
		names = r.resolver
	}
	addresses, err := pool.New(pool.Options{})
	if err != nil {
		return err
	}
	o.run, o.root = run, root
	o.control, err = sealane.New(context.Background(), sealane.Options{
		Run: run, Root: root, Spaces: o.spaces, Firewalls: r.walls, Resolver: names,
		Drivers: drivers.All(), IPAM: map[string]ipam.Driver{"default": addresses},
	})
	if err != nil {
		return err
	}
	o.close = append(o.close, o.control.Close)
	slices.Reverse(o.close) // the Controller before what it was given
	return nil
}

// Attach is what the daemon does for a container: one call.
func (o *ours) Attach() (Handle, error) {
	var id [32]byte
	rand.Read(id[:]) // never fails
	spec := endpoint.Spec{ID: endpoint.ID(hex.EncodeToString(id[:]))}
	for i := range o.mode.Ports {
		port := uint16(80 + i)
		spec.Publish = append(spec.Publish, endpoint.PortBinding{Proto: firewall.TCP, Ports: firewall.Range{First: port, Last: port}})
	}
	on := sealane.Connection{Network: o.network.ID(), Endpoint: spec}
	sb, err := o.control.CreateConnected(context.Background(), sandbox.Spec{}, endpoint.Ports{}, on)
	return oursAttachment{sb, o.control.Endpoint(on.Network, spec.ID)}, err
}

func (o *ours) Detach(h Handle) error { return h.(oursAttachment).sandbox.Delete(context.Background()) }

// Prepare waits until the pool is full.
func (o *ours) Prepare(int) error { return o.spaces.Filled(context.Background()) }

func (o *ours) Publish(h Handle, ports firewall.Range) error {
	return h.(oursAttachment).endpoint.Update(context.Background(), func(s *endpoint.Spec) error {
		s.Publish = append(s.Publish, endpoint.PortBinding{Proto: firewall.TCP, HostPorts: ports, Ports: ports})
		return nil
	})
}

func (o *ours) Unpublish(h Handle, ports firewall.Range) error {
	return h.(oursAttachment).endpoint.Update(context.Background(), func(s *endpoint.Spec) error {
		s.Publish = slices.DeleteFunc(s.Publish, func(b endpoint.PortBinding) bool { return b.HostPorts == ports })
		return nil
	})
}

// Restart starts another Controller beside what the last one left running.
func (o *ours) Restart() (time.Duration, error) {
	if err := o.Close(); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := o.start(); err != nil {
		return 0, err
	}
	took := time.Since(start)
	var err error
	if o.network, err = o.control.Network(context.Background(), oursNetwork); err != nil {
		return 0, fmt.Errorf("after a restart: %w", err)
	}
	return took, nil
}

func (o *ours) Close() error {
	for _, closing := range o.close {
		if err := closing(); err != nil {
			return err
		}
	}
	o.close = nil
	return nil
}
