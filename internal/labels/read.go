package labels

import (
	"fmt"
	"net/netip"
	"strconv"
)

// Text is read and written as it stands.
func Text(s string) string { return s }

// IPv4 reads an IPv4 address.
func IPv4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && !a.Is4() {
		err = fmt.Errorf("not IPv4")
	}
	return a, err
}

// Binding reads a host address that ports are published at. 0.0.0.0 is the zero Addr: all addresses, of both families.
func Binding(s string) (netip.Addr, error) {
	a, err := IPv4(s)
	if a.IsUnspecified() {
		a = netip.Addr{}
	}
	return a, err
}

// IPv6 reads an IPv6 address without a zone.
func IPv6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && (!a.Is6() || a.Is4In6() || a.Zone() != "") {
		err = fmt.Errorf("not IPv6")
	}
	return a, err
}

// OneHost is read without what nothing can be sent from, such as 0.0.0.0 and ::.
func OneHost(read func(string) (netip.Addr, error)) func(string) (netip.Addr, error) {
	return func(s string) (netip.Addr, error) {
		a, err := read(s)
		if err == nil && (a.IsUnspecified() || a.IsMulticast()) {
			err = fmt.Errorf("not of one host")
		}
		return a, err
	}
}

// WriteAddr writes an address, "" for none.
func WriteAddr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// MTU reads a number of bytes from 68 (RFC 791) to 65535, the most of a veth; 0 leaves the choice to the driver.
func MTU(s string) (int, error) {
	mtu, err := strconv.Atoi(s)
	if err == nil && mtu != 0 && (mtu < 68 || mtu > 65535) {
		err = fmt.Errorf("out of range")
	}
	return mtu, err
}

// WriteInt writes a number, "" for 0.
func WriteInt(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
