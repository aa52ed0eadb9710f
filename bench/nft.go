package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/firewall"
)

// Messages to nftables, by the floor's own encoder.

func (m *message) nft(family byte, typ, flags uint16) {
	m.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, family, unix.NFNETLINK_V0, 0, 0)
}

// transaction writes a batch that happens as a whole. The last message of fill asks for the acknowledgement (older kernels do not give one for the end of a batch).
func transaction(fill func(m *message)) *message {
	const subsystem = unix.NFNL_SUBSYS_NFTABLES // as the big-endian res_id
	m := new(message)
	m.begin(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, subsystem)
	fill(m)
	m.begin(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, subsystem)
	return m
}

func big(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// dropReports is a table with one rule: no multicast listener reports leave. An own bridge has snooping off, where they serve nobody.
func dropReports() *message {
	const (
		report   = 143 // ICMPv6 type of an MLDv2 report
		table    = "quiet"
		chain    = "output"
		register = unix.NFT_REG_1
	)
	return transaction(func(m *message) {
		m.nft(unix.NFPROTO_IPV6, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
		m.text(unix.NFTA_TABLE_NAME, table)
		m.nft(unix.NFPROTO_IPV6, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
		m.text(unix.NFTA_CHAIN_TABLE, table)
		m.text(unix.NFTA_CHAIN_NAME, chain)
		m.text(unix.NFTA_CHAIN_TYPE, "filter")
		m.nest(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, func() {
			m.attr(unix.NFTA_HOOK_HOOKNUM, big(unix.NF_INET_LOCAL_OUT)...)
			m.attr(unix.NFTA_HOOK_PRIORITY, big(0)...)
		})
		m.nft(unix.NFPROTO_IPV6, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
		m.text(unix.NFTA_RULE_TABLE, table)
		m.text(unix.NFTA_RULE_CHAIN, chain)
		m.nest(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, func() {
			m.expression("meta", func() {
				m.attr(unix.NFTA_META_DREG, big(register)...)
				m.attr(unix.NFTA_META_KEY, big(unix.NFT_META_L4PROTO)...)
			})
			m.equals(register, unix.IPPROTO_ICMPV6)
			m.expression("payload", func() {
				m.attr(unix.NFTA_PAYLOAD_DREG, big(register)...)
				m.attr(unix.NFTA_PAYLOAD_BASE, big(unix.NFT_PAYLOAD_TRANSPORT_HEADER)...)
				m.attr(unix.NFTA_PAYLOAD_OFFSET, big(0)...)
				m.attr(unix.NFTA_PAYLOAD_LEN, big(1)...)
			})
			m.equals(register, report)
			m.expression("immediate", func() {
				m.attr(unix.NFTA_IMMEDIATE_DREG, big(unix.NFT_REG_VERDICT)...)
				m.nest(unix.NFTA_IMMEDIATE_DATA|unix.NLA_F_NESTED, func() {
					m.nest(unix.NFTA_DATA_VERDICT|unix.NLA_F_NESTED, func() { m.attr(unix.NFTA_VERDICT_CODE, big(0)...) }) // NF_DROP
				})
			})
		})
		m.ack()
	})
}

func (m *message) expression(name string, data func()) {
	m.nest(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, func() {
		m.text(unix.NFTA_EXPR_NAME, name)
		m.nest(unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED, data)
	})
}

func (m *message) equals(register uint32, value ...byte) {
	m.expression("cmp", func() {
		m.attr(unix.NFTA_CMP_SREG, big(register)...)
		m.attr(unix.NFTA_CMP_OP, big(unix.NFT_CMP_EQ)...)
		m.nest(unix.NFTA_CMP_DATA|unix.NLA_F_NESTED, func() { m.attr(unix.NFTA_DATA_VALUE, value...) })
	})
}

// elements is the least that publishes a port: it is reserved by a bound socket, and is an element of one map a family.
type elements struct {
	wire    wire
	mu      sync.Mutex
	sockets map[int]int // by port
}

const elementTables = `
table inet floor {
	map ports4 { type inet_service : ipv4_addr . inet_service; }
	map ports6 { type inet_service : ipv6_addr . inet_service; }
	chain prerouting {
		type nat hook prerouting priority dstnat
		dnat ip to tcp dport map @ports4
		dnat ip6 to tcp dport map @ports6
	}
}`

func newElements() (*elements, error) {
	if err := nft(elementTables); err != nil {
		return nil, err
	}
	w, err := openWire(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	return &elements{wire: w, sockets: make(map[int]int)}, unix.SetsockoptInt(int(w), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
}

// nft runs a script of the set-up.
func nft(script string) error {
	c := exec.Command("nft", "-f", "-")
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

func (e *elements) add(ports firewall.Range) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for port := int(ports.First); port <= int(ports.Last); port++ {
		fd, err := reserve(port)
		if err != nil {
			return fmt.Errorf("reserve port %d: %w", port, err)
		}
		e.sockets[port] = fd
	}
	return e.change(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ports)
}

func (e *elements) remove(ports firewall.Range) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for port := int(ports.First); port <= int(ports.Last); port++ {
		unix.Close(e.sockets[port])
		delete(e.sockets, port)
	}
	return e.change(unix.NFT_MSG_DELSETELEM, 0, ports)
}

// change adds or deletes the elements of ports in one transaction.
func (e *elements) change(typ, flags uint16, ports firewall.Range) error {
	const most = 400 // of a message: the length of an attribute has 16 bits
	return e.wire.do(transaction(func(m *message) {
		for first := int(ports.First); first <= int(ports.Last); first += most {
			last := min(first+most-1, int(ports.Last))
			m.elements(typ, flags, "ports4", first, last, netip.MustParseAddr("10.210.0.2"))
			m.elements(typ, flags, "ports6", first, last, netip.MustParseAddr("fd00:210::2"))
		}
		m.ack()
	}))
}

// elements maps ports to the same ports of an address.
func (m *message) elements(typ, flags uint16, set string, first, last int, to netip.Addr) {
	m.nft(unix.NFPROTO_INET, typ, flags)
	m.text(unix.NFTA_SET_ELEM_LIST_TABLE, "floor")
	m.text(unix.NFTA_SET_ELEM_LIST_SET, set)
	m.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, func() {
		for port := first; port <= last; port++ {
			key := binary.BigEndian.AppendUint16(nil, uint16(port))
			value := append(to.AsSlice(), key[0], key[1], 0, 0) // each part of a concatenation is padded to four bytes
			m.nest(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, func() {
				m.nest(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, func() { m.attr(unix.NFTA_DATA_VALUE, key...) })
				m.nest(unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, func() { m.attr(unix.NFTA_DATA_VALUE, value...) })
			})
		}
	})
}

// reserve keeps others from a TCP port of all addresses: bound, not listening.
func reserve(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Port: port}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
