package sealane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/netdriver"
)

// errOverlap says that somebody else has a subnet.
var errOverlap = fmt.Errorf("%w: it overlaps", errdefs.ErrAlreadyExists)

// ownSpace is the address space of a network that keeps apart from others: what it is given by name others may have as well. "" when it does
// not, when the IPAM driver has no such spaces, and when its pools are there already.
func (c *Controller) ownSpace(ctx context.Context, n netdriver.Network, s IPAM, d netdriver.Driver) (string, error) {
	can, err := d.Capability(ctx)
	if err != nil || !can.Apart || can.NoAddresses || slices.ContainsFunc(s.Subnets, func(sub SubnetSpec) bool { return sub.Pool != "" }) {
		return "", err
	}
	addresses, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return "", err
	}
	spaces, err := addresses.Capability(ctx)
	if err != nil || !spaces.Subspaces {
		return "", err
	}
	return spaces.GlobalSpace + "/" + string(n.ID), nil
}

// enterShared writes a new network with all that it claims.
func (c *Controller) enterShared(tx datastore.Tx, n netdriver.Network, s IPAM, d netdriver.Driver) error {
	if err := enterNetwork(tx, &n, d); err != nil {
		return err
	}
	return c.claimPools(tx, n, s)
}

// spaceOf is the address space of a pool: its id is the driver's own, and what drivers put first in it.
func spaceOf(n netdriver.Network) string {
	if n.IPAM == "" {
		return defaultIPAM
	}
	return n.IPAM
}

// claimPools makes the subnets of a network its own; errOverlap names the network that has one already. Networks that keep apart may both
// have one that was named for the second.
func (c *Controller) claimPools(tx datastore.Tx, n netdriver.Network, s IPAM) error {
	table := claimTable(spaceOf(n))
	var others []claimedPool
	for p, err := range table.All(tx) {
		if err != nil {
			return err
		}
		if p.Network != n.ID {
			others = append(others, p)
		}
	}
	for _, sub := range n.Subnets {
		named := slices.ContainsFunc(s.Subnets, func(want SubnetSpec) bool { return want.Subnet == sub.Pool.Subnet })
		for _, other := range others {
			if other.Pool.Subnet.Overlaps(sub.Pool.Subnet) && !(named && other.Apart && n.Space != "") {
				return fmt.Errorf("subnet %s: %w %s of network %s: choose another subnet", sub.Pool.Subnet, errOverlap, other.Pool.Subnet, other.Network)
			}
		}
		if err := table.Put(tx, claimKey(n, sub), claimedPool{sub.Pool, n.ID, n.Space != ""}); err != nil {
			return err
		}
	}
	return nil
}

// claimKey is where a subnet's claim is: one that others may have as well has the network's id with it.
func claimKey(n netdriver.Network, sub netdriver.Subnet) string {
	if n.Space == "" {
		return sub.Pool.Subnet.String()
	}
	return sub.Pool.Subnet.String() + "@" + string(n.ID)
}

// claimNumber takes the lowest free number of the range that the network's options allow; 0 for a driver that wants none. A number that
// the network has already stays: the transaction may be a repeat.
func claimNumber(tx datastore.Tx, n netdriver.Network, d netdriver.Driver) (uint32, error) {
	first, last, option, err := numbers(d, n)
	if err != nil || option == "" {
		return 0, err
	}
	holder := map[string]string{}
	for name, id := range tx.List(string(numberNames)) {
		holder[name] = string(id)
	}
	free := uint32(0)
	for number := uint64(first); number <= uint64(last); number++ {
		switch holder[strconv.FormatUint(number, 10)] {
		case string(n.ID):
			return uint32(number), nil
		case "":
			if free == 0 {
				free = uint32(number)
			}
		}
	}
	if free == 0 {
		if first == last {
			return 0, fmt.Errorf("option %s=%d: %w: network %s has the number", option, first, errdefs.ErrAlreadyExists,
				holder[strconv.FormatUint(uint64(first), 10)])
		}
		return 0, fmt.Errorf("%w: all numbers from %d to %d are taken: widen the range with option %s", errdefs.ErrResourceExhausted, first, last, option)
	}
	return free, numberNames.claim(tx, strconv.FormatUint(uint64(free), 10), string(n.ID))
}

func freeNumber(tx datastore.Tx, n netdriver.Network) error {
	if n.Number == 0 {
		return nil
	}
	return numberNames.free(tx, strconv.FormatUint(uint64(n.Number), 10), string(n.ID))
}

// claimedSubnets are the subnets that no new network of a space may have.
func (c *Controller) claimedSubnets(ctx context.Context, n netdriver.Network) ([]netip.Prefix, error) {
	return view(ctx, c.o.Cluster, func(tx datastore.Tx) (all []netip.Prefix, err error) {
		for p, err := range claimTable(spaceOf(n)).All(tx) {
			if err == nil && p.Pool.Subnet.IsValid() {
				all = append(all, p.Pool.Subnet)
			}
		}
		return all, nil
	})
}
