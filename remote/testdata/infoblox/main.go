// Infoblox is an IPAM plugin as somebody who knows nothing of sealane writes it, by go-plugins-helpers alone: it gives the next address of
// a /24, and wants to know MAC addresses.
package main

import (
	"fmt"
	"log"
	"net/netip"
	"os"
	"sync"

	"github.com/docker/go-plugins-helpers/ipam"
)

type driver struct {
	mu    sync.Mutex
	pools map[string]map[netip.Addr]bool
	next  byte
	trace *log.Logger
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: infoblox SOCKET")
	}
	os.Remove(os.Args[1])
	d := &driver{pools: map[string]map[netip.Addr]bool{}, trace: log.New(os.Stdout, "", 0)}
	log.Fatal(ipam.NewHandler(d).ServeUnix(os.Args[1], 0))
}

func (d *driver) GetCapabilities() (*ipam.CapabilitiesResponse, error) {
	return &ipam.CapabilitiesResponse{RequiresMACAddress: true}, nil
}

func (d *driver) GetDefaultAddressSpaces() (*ipam.AddressSpacesResponse, error) {
	return &ipam.AddressSpacesResponse{LocalDefaultAddressSpace: "ib-local", GlobalDefaultAddressSpace: "ib-global"}, nil
}

func (d *driver) RequestPool(r *ipam.RequestPoolRequest) (*ipam.RequestPoolResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pool := r.Pool
	if pool == "" {
		pool = fmt.Sprintf("10.123.%d.0/24", d.next)
		d.next++
	}
	d.trace.Println("RequestPool", pool)
	if d.pools[pool] != nil {
		return nil, fmt.Errorf("pool %s is taken", pool)
	}
	d.pools[pool] = map[netip.Addr]bool{}
	return &ipam.RequestPoolResponse{PoolID: pool, Pool: pool}, nil
}

func (d *driver) ReleasePool(r *ipam.ReleasePoolRequest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trace.Println("ReleasePool", r.PoolID, "with", len(d.pools[r.PoolID]))
	delete(d.pools, r.PoolID)
	return nil
}

func (d *driver) RequestAddress(r *ipam.RequestAddressRequest) (*ipam.RequestAddressResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pool, err := netip.ParsePrefix(r.PoolID)
	if err != nil {
		return nil, err
	}
	if r.Options["RequestAddressType"] == "" && r.Options["com.docker.network.endpoint.macaddress"] == "" {
		return nil, fmt.Errorf("no MAC address")
	}
	a := pool.Addr().Next()
	if r.Address != "" {
		if a, err = netip.ParseAddr(r.Address); err != nil {
			return nil, err
		}
		if d.pools[r.PoolID][a] {
			return nil, fmt.Errorf("%s is taken", a)
		}
	}
	for d.pools[r.PoolID][a] {
		a = a.Next()
	}
	d.pools[r.PoolID][a] = true
	d.trace.Println("RequestAddress", a)
	return &ipam.RequestAddressResponse{Address: netip.PrefixFrom(a, pool.Bits()).String()}, nil
}

func (d *driver) ReleaseAddress(r *ipam.ReleaseAddressRequest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trace.Println("ReleaseAddress", r.Address)
	a, err := netip.ParseAddr(r.Address)
	if err == nil {
		delete(d.pools[r.PoolID], a)
	}
	return err
}
