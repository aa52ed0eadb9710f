package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/pflag"

	"github.com/sealane/sealane/api"
)

// pairs is a flag k=v that may be repeated. A key alone has the value "".
type pairs map[string]string

func (p *pairs) Set(s string) error {
	key, value, _ := strings.Cut(s, "=")
	if key == "" {
		return errors.New("want key=value")
	}
	if *p == nil {
		*p = pairs{}
	}
	(*p)[key] = value
	return nil
}

func (p *pairs) String() string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(*p)) {
		all = append(all, key+"="+(*p)[key])
	}
	return strings.Join(all, ",")
}

func (p *pairs) Type() string { return "key=value" }

// filters is the flag --filter.
type filters api.Filters

func (f *filters) Set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return errors.New("want key=value")
	}
	if *f == nil {
		*f = filters{}
	}
	(*f)[key] = append((*f)[key], value)
	return nil
}

func (f *filters) String() string {
	if len(*f) == 0 {
		return ""
	}
	return fmt.Sprint(map[string][]string(*f))
}
func (f *filters) Type() string { return "key=value" }

// addresses is a flag of an address that may be repeated; one takes the last.
type addresses []netip.Addr

func (a *addresses) Set(s string) error {
	addr, err := netip.ParseAddr(s)
	if err == nil {
		*a = append(*a, addr)
	}
	return err
}

func (a *addresses) String() string {
	var all []string
	for _, addr := range *a {
		all = append(all, addr.String())
	}
	return strings.Join(all, ",")
}
func (a *addresses) Type() string { return "address" }

func (a addresses) last() netip.Addr {
	if len(a) == 0 {
		return netip.Addr{}
	}
	return a[len(a)-1]
}

// prefixes is a flag of a subnet that may be repeated.
type prefixes []netip.Prefix

func (p *prefixes) Set(s string) error {
	prefix, err := netip.ParsePrefix(s)
	if err == nil {
		*p = append(*p, prefix)
	}
	return err
}

func (p *prefixes) String() string {
	var all []string
	for _, prefix := range *p {
		all = append(all, prefix.String())
	}
	return strings.Join(all, ",")
}
func (p *prefixes) Type() string { return "subnet" }

// joins is the flag --network.
type joins []api.NetworkJoin

func (j *joins) Set(s string) error {
	n, err := parseJoin(s)
	if err == nil {
		*j = append(*j, n)
	}
	return err
}

func (j *joins) String() string {
	var all []string
	for _, n := range *j {
		all = append(all, n.Network)
	}
	return strings.Join(all, " ")
}
func (j *joins) Type() string { return "network[:k=v,...]" }

// parseJoin reads NETWORK, NETWORK:k=v,… or Docker's name=NETWORK,k=v,…. A value with a comma stands in double quotes with its key.
func parseJoin(s string) (n api.NetworkJoin, err error) {
	name, settings, _ := strings.Cut(s, ":")
	if strings.Contains(name, "=") {
		name, settings = "", s
	}
	n.Network = name
	if settings != "" {
		fields, err := csv.NewReader(strings.NewReader(settings)).Read()
		if err != nil {
			return n, fmt.Errorf("want k=v,k=v: %w", err)
		}
		for _, field := range fields {
			key, value, ok := strings.Cut(field, "=")
			if !ok {
				return n, fmt.Errorf("want k=v, not %q", field)
			}
			if err := setJoin(&n, key, value); err != nil {
				return n, fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	if n.Network == "" {
		return n, errors.New("no network is named")
	}
	return n, nil
}

func setJoin(n *api.NetworkJoin, key, value string) (err error) {
	switch key {
	case "name":
		n.Network = value
	case "ip":
		n.IPAMConfig.IPv4Address, err = netip.ParseAddr(value)
	case "ip6":
		n.IPAMConfig.IPv6Address, err = netip.ParseAddr(value)
	case "link-local-ip":
		return (*addresses)(&n.IPAMConfig.LinkLocalIPs).Set(value)
	case "alias":
		n.Aliases = append(n.Aliases, value)
	case "mac-address":
		n.MacAddress = value
	case "ifname":
		n.IfName = value
	case "gw-priority":
		n.GwPriority, err = strconv.Atoi(value)
	case "driver-opt":
		return (*pairs)(&n.DriverOpts).Set(value)
	case "link":
		n.Links = append(n.Links, value)
	default:
		return errors.New("want one of name, ip, ip6, link-local-ip, alias, link, mac-address, ifname, gw-priority, driver-opt")
	}
	return err
}

// errLater is the answer to what the documentation names and this version does not do yet: better than doing nothing and saying nothing.
var errLater = fmt.Errorf("%w: not in this version", errdefs.ErrNotImplemented)

// later is a flag of a later version.
type later struct{ typ string }

func (later) Set(string) error { return errLater }
func (later) String() string   { return "" }
func (l later) Type() string   { return l.typ }

// laterFlags declares flags that take a value, and switches that take none, as known and not here yet.
func laterFlags(flags *pflag.FlagSet, valued, switches []string) {
	for _, name := range valued {
		flags.Var(later{"string"}, name, "not in this version")
		flags.Lookup(name).Hidden = true
	}
	for _, name := range switches {
		flags.Var(later{"bool"}, name, "not in this version")
		flags.Lookup(name).Hidden = true
		flags.Lookup(name).NoOptDefVal = "true"
	}
}
