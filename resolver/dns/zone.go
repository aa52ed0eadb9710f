package dns

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/resolver"
)

// lifetime of what we answer, in seconds: a record lives as long as its endpoint, and nobody may remember it longer.
const lifetime = 0

// Sizes of prepared records: a pointer to the question's name, type, class, lifetime, length, address.
const (
	recordHead = 12
	size4      = recordHead + 4
	size6      = recordHead + 16
)

// zone is the names of one network. Guarded by the Resolver's lock.
type zone struct {
	name      string // as PTR tells it
	suffix    string // its key, see keyOf
	endpoints map[endpoint.ID]endpoint.Published
	names     map[string]*entry       // by key
	addrs     map[netip.Addr][]string // what an address is called; several while it changes hands
	wildcards int
}

// entry is what is known of one name: answers as bytes, made when an endpoint comes or goes.
type entry struct {
	owners         []endpoint.ID // those who have the name
	answer4        []byte        // whole records, each size4 bytes
	answer6        []byte
	owner4, owner6 []endpoint.ID // whose they are, in their order
	targets        []target      // of a CNAME; the first is told
}

type target struct {
	owner endpoint.ID
	name  string
}

// keyOf is a name as it is looked up: in the form of the wire, in small letters, without the root. "" for what is no name.
func keyOf(name string) string {
	if name == "" || name == "." {
		return ""
	}
	var wire [256]byte
	n, err := dns.PackDomainName(strings.ToLower(dns.Fqdn(name)), wire[:], 0, nil, false)
	if err != nil || n < 2 {
		return ""
	}
	return string(wire[:n-1])
}

func newZone() *zone {
	return &zone{endpoints: map[endpoint.ID]endpoint.Published{}, names: map[string]*entry{}, addrs: map[netip.Addr][]string{}}
}

// change carries out a Change.
func (z *zone) change(c resolver.Change) {
	if c.Name != "" && c.Name != z.name {
		z.name, z.suffix = c.Name, keyOf(c.Name)
	}
	for _, id := range c.Drop {
		z.drop(id)
	}
	for _, p := range c.Put {
		z.drop(p.ID)
		z.put(p)
	}
}

// aliases are the names of an endpoint, each once, with what it stands for where that is another.
func aliases(p endpoint.Published) map[string]string {
	all := map[string]string{}
	for _, a := range p.Aliases {
		name, stands, _ := strings.Cut(a, "=")
		if key := keyOf(name); key != "" {
			all[key] = stands
		}
	}
	if key := keyOf(p.Name); key != "" {
		all[key] = ""
	}
	return all
}

func isWildcard(key string) bool { return strings.HasPrefix(key, "\x01*") }

func (z *zone) put(p endpoint.Published) {
	p.Aliases, p.Addresses, p.Ports = slices.Clone(p.Aliases), slices.Clone(p.Addresses), slices.Clone(p.Ports)
	z.endpoints[p.ID] = p
	for key, stands := range aliases(p) {
		e := z.names[key]
		if e == nil {
			e = &entry{}
			z.names[key] = e
			if isWildcard(key) {
				z.wildcards++
			}
		}
		e.owners = append(e.owners, p.ID)
		if stands != "" {
			e.targets = append(e.targets, target{p.ID, stands})
			continue
		}
		for _, a := range p.Addresses {
			e.add(p.ID, a.Addr())
		}
	}
	for _, a := range p.Addresses {
		z.addrs[a.Addr()] = append(z.addrs[a.Addr()], p.Called())
	}
}

func (z *zone) drop(id endpoint.ID) {
	p, ok := z.endpoints[id]
	if !ok {
		return
	}
	delete(z.endpoints, id)
	for key := range aliases(p) {
		e := z.names[key]
		if e.remove(id); len(e.owners) > 0 {
			continue
		}
		delete(z.names, key)
		if isWildcard(key) {
			z.wildcards--
		}
	}
	for _, a := range p.Addresses {
		names := z.addrs[a.Addr()]
		if i := slices.Index(names, p.Called()); i >= 0 {
			names = slices.Delete(names, i, i+1)
		}
		if z.addrs[a.Addr()] = names; len(names) == 0 {
			delete(z.addrs, a.Addr())
		}
	}
}

func (e *entry) add(id endpoint.ID, a netip.Addr) {
	if a = a.Unmap(); a.Is4() {
		e.answer4, e.owner4 = appendRecord(e.answer4, dns.TypeA, a), append(e.owner4, id)
	} else {
		e.answer6, e.owner6 = appendRecord(e.answer6, dns.TypeAAAA, a), append(e.owner6, id)
	}
}

// remove takes away what an endpoint brought; a record that goes leaves its place to the last.
func (e *entry) remove(id endpoint.ID) {
	e.answer4, e.owner4 = without(e.answer4, e.owner4, size4, id)
	e.answer6, e.owner6 = without(e.answer6, e.owner6, size6, id)
	e.owners = slices.DeleteFunc(e.owners, func(o endpoint.ID) bool { return o == id })
	e.targets = slices.DeleteFunc(e.targets, func(t target) bool { return t.owner == id })
}

func without(records []byte, owners []endpoint.ID, size int, id endpoint.ID) ([]byte, []endpoint.ID) {
	for i := 0; i < len(owners); {
		if owners[i] != id {
			i++
			continue
		}
		last := len(owners) - 1
		copy(records[i*size:(i+1)*size], records[last*size:])
		owners[i] = owners[last]
		records, owners = records[:last*size], owners[:last]
	}
	return records, owners
}

// appendRecord writes a record whose name is the question's, which every answer of ours begins with at offset 12 (RFC 1035, 4.1.4).
func appendRecord(b []byte, typ uint16, a netip.Addr) []byte {
	const nameOfQuestion = 0xc00c
	b = binary.BigEndian.AppendUint16(b, nameOfQuestion)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, lifetime)
	b = binary.BigEndian.AppendUint16(b, uint16(a.BitLen()/8))
	return append(b, a.AsSlice()...)
}

// shuffle changes the order of records in place.
func shuffle(records []byte, size int) {
	var spare [size6]byte
	rand.Shuffle(len(records)/size, func(i, j int) {
		a, b := records[i*size:(i+1)*size], records[j*size:(j+1)*size]
		copy(spare[:], a)
		copy(a, b)
		copy(b, spare[:size])
	})
}

// find looks a key up, most exact first; nil when the network does not know it.
func (z *zone) find(key string) *entry {
	if e := z.exact(key); e != nil {
		return e
	}
	if short, ok := strings.CutSuffix(key, z.suffix); ok && short != "" && z.suffix != "" && aligned(key, len(short)) {
		return z.exact(short)
	}
	return nil
}

// aligned says whether a label begins at an offset.
func aligned(key string, at int) bool {
	i := 0
	for i < at {
		i += 1 + int(key[i])
	}
	return i == at
}

func (z *zone) exact(key string) *entry {
	if e := z.names[key]; e != nil || z.wildcards == 0 {
		return e
	}
	for rest := key; rest != ""; {
		rest = rest[1+int(rest[0]):]
		if e := z.names["\x01*"+rest]; e != nil && rest != "" {
			return e
		}
	}
	return nil
}

// called is the name of an address, "" when nobody has it.
func (z *zone) called(a netip.Addr) string {
	if names := z.addrs[a]; len(names) > 0 {
		return names[0] + "." + z.name + "."
	}
	return ""
}
