package main

import (
	"context"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/docker/docker/libnetwork/ipamapi"
	"github.com/docker/docker/libnetwork/ipams/defaultipam"
	"github.com/docker/docker/libnetwork/ipamutils"

	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
)

// allocator gives addresses of one /16.
type allocator interface {
	request() (netip.Addr, error)
	release(netip.Addr) error
}

const ipamSubnet = "10.220.0.0/16"

func newAllocator(name string) (allocator, error) {
	switch name {
	case "floor":
		return &bitmap{base: netip.MustParsePrefix(ipamSubnet).Addr().As4()}, nil
	case "sealane":
		return newPoolAllocator()
	case "moby":
		return newMobyAllocator()
	}
	return nil, nil
}

// ipamRows asks for addresses and gives them back in a /16 that is filled in part.
func ipamRows(b *bench) (measure, error) {
	return func() (rows []row, err error) {
		for _, percent := range []int{0, 50, 99} {
			requests, releases := make(map[string][]float64), make(map[string][]float64)
			for _, name := range b.subjects {
				a, err := newAllocator(name)
				if err != nil {
					return nil, err
				}
				if a == nil {
					continue
				}
				if err := fillAllocator(a, percent); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				for range b.rounds {
					request, release, err := timeAllocator(a)
					if err != nil {
						return nil, fmt.Errorf("%s: %w", name, err)
					}
					requests[name] = append(requests[name], request)
					releases[name] = append(releases[name], release)
				}
			}
			rows = append(rows,
				row{work: fmt.Sprintf("address request, %d %% of a /16 taken", percent), runs: []values{medians(requests)}, goals: []goal{under(80e-9, "≤ 80 ns")}},
				row{work: fmt.Sprintf("address release, %d %% of a /16 taken", percent), runs: []values{medians(releases)}, goals: []goal{under(80e-9, "≤ 80 ns")}})
		}
		return rows, nil
	}, nil
}

// fillAllocator takes a part of the addresses.
func fillAllocator(a allocator, percent int) error {
	const size = 1 << 16
	for range size * percent / 100 {
		if _, err := a.request(); err != nil {
			return err
		}
	}
	return nil
}

// timeAllocator takes some addresses and gives them back, and says how many seconds one of each took.
func timeAllocator(a allocator) (request, release float64, err error) {
	const n = 500 // fewer than are free
	taken := make([]netip.Addr, n)
	start := time.Now()
	for i := range taken {
		if taken[i], err = a.request(); err != nil {
			return 0, 0, err
		}
	}
	request = time.Since(start).Seconds() / n
	slices.Reverse(taken)
	start = time.Now()
	for _, address := range taken {
		if err := a.release(address); err != nil {
			return 0, 0, err
		}
	}
	return request, time.Since(start).Seconds() / n, nil
}

// bitmap is the floor of address management: two levels of bits, lowest free first.
type bitmap struct {
	mu   sync.Mutex
	base [4]byte
	full [16]uint64   // a bit for each word below that has none free
	used [1024]uint64 // a bit for each address
}

func (b *bitmap) request() (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, full := range b.full {
		if full == ^uint64(0) {
			continue
		}
		word := i*64 + bits.TrailingZeros64(^full)
		bit := bits.TrailingZeros64(^b.used[word])
		b.used[word] |= 1 << bit
		if b.used[word] == ^uint64(0) {
			b.full[i] |= 1 << (word % 64)
		}
		n := word*64 + bit
		return netip.AddrFrom4([4]byte{b.base[0], b.base[1], byte(n >> 8), byte(n)}), nil
	}
	return netip.Addr{}, fmt.Errorf("no address is free")
}

func (b *bitmap) release(a netip.Addr) error {
	four := a.As4()
	n := int(four[2])<<8 | int(four[3])
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used[n/64] &^= 1 << (n % 64)
	b.full[n/64/64] &^= 1 << (n / 64 % 64)
	return nil
}

// poolAllocator is our default IPAM driver.
type poolAllocator struct {
	driver *pool.Driver
	pool   ipam.PoolID
}

func newPoolAllocator() (*poolAllocator, error) {
	driver, err := pool.New(pool.Options{})
	if err != nil {
		return nil, err
	}
	p, err := driver.RequestPool(context.Background(), ipam.PoolRequest{Subnet: netip.MustParsePrefix(ipamSubnet), Owner: "net/bench"})
	return &poolAllocator{driver, p.ID}, err
}

func (p *poolAllocator) request() (netip.Addr, error) {
	a, err := p.driver.RequestAddress(context.Background(), ipam.AddressRequest{Pool: p.pool, Owner: "ep/bench"})
	return a.Prefix.Addr(), err
}

func (p *poolAllocator) release(a netip.Addr) error {
	return p.driver.ReleaseAddress(context.Background(), p.pool, a)
}

// mobyAllocator is the default IPAM driver of libnetwork.
type mobyAllocator struct {
	driver *defaultipam.Allocator
	pool   string
}

func newMobyAllocator() (*mobyAllocator, error) {
	driver, err := defaultipam.NewAllocator(ipamutils.GetLocalScopeDefaultNetworks(), ipamutils.GetGlobalScopeDefaultNetworks())
	if err != nil {
		return nil, err
	}
	pool, err := driver.RequestPool(ipamapi.PoolRequest{AddressSpace: "LocalDefault", Pool: ipamSubnet})
	return &mobyAllocator{driver, pool.PoolID}, err
}

func (m *mobyAllocator) request() (netip.Addr, error) {
	n, _, err := m.driver.RequestAddress(m.pool, nil, nil)
	if err != nil {
		return netip.Addr{}, err
	}
	address, _ := netip.AddrFromSlice(n.IP)
	return address.Unmap(), nil
}

func (m *mobyAllocator) release(a netip.Addr) error {
	return m.driver.ReleaseAddress(m.pool, net.IP(a.AsSlice()))
}
