package nftables

// setID is one of the table's sets and maps.
type setID uint8

const (
	setNets     setID = iota // interfaces of networks
	setPass                  // from . to: unasked
	setInternal              // networks that nothing leaves
	setIsolated              // networks that nothing leaves or enters, the host included
	setMode                  // how a network may be entered
	setMarked                // network . mark that may enter
	setMasq                  // networks whose traffic leaves with the host's address
	setSNAT4                 // networks whose traffic leaves with this address
	setSNAT6
	setSub4 // interval sets: networks only, since each commit copies them
	setSub6
	setOpen4 // container ports open in routed mode
	setOpen6
	setPub4 // published at one host address
	setPub6
	setPub4Any // published at every host address
	setPub6Any
	setTunnels // port . VNI of VXLAN that only peers may send
	setPeers4  // port . VNI . host
	setPeers6
	setUplinks // interfaces with a default route; of nobody
	setCount
)

// field is a part of a key or of what a map maps to, as nft knows it.
type field struct {
	typ uint32 // nft's number of the data type, for its listings
	len int    // in bytes, without padding
}

var (
	ifname  = field{41, 16}
	nfproto = field{2, 1}
	ipv4    = field{7, 4}
	ipv6    = field{8, 16}
	l4proto = field{12, 1}
	service = field{13, 2}
	mark    = field{19, 4}
	vni     = field{4, 3} // an integer to nft, which must be told where it is from (see tunnelOrigin)
	verdict = field{0xffffff00, 0}
)

// definition is what a set is made from.
type definition struct {
	name     string
	key      []field
	data     []field // of a map; none: a set
	origin   []byte  // where nft finds the fields of the key in a packet; nil: their types tell
	interval bool
}

// definitions says how each set looks.
func definitions() [setCount]definition {
	published := func(addr ...field) definition {
		return definition{key: append(addr, l4proto, service)}
	}
	d := [setCount]definition{
		setNets:     {key: []field{ifname}},
		setPass:     {key: []field{ifname, ifname}},
		setInternal: {key: []field{ifname}},
		setIsolated: {key: []field{nfproto, ifname}},
		setMode:     {key: []field{nfproto, ifname}, data: []field{verdict}},
		setMarked:   {key: []field{ifname, mark}},
		setMasq:     {key: []field{nfproto, ifname}},
		setSNAT4:    {key: []field{ifname}, data: []field{ipv4}},
		setSNAT6:    {key: []field{ifname}, data: []field{ipv6}},
		setSub4:     {key: []field{ifname, ipv4}, interval: true},
		setSub6:     {key: []field{ifname, ipv6}, interval: true},
		setOpen4:    published(ipv4),
		setOpen6:    published(ipv6),
		setPub4:     published(ipv4),
		setPub6:     published(ipv6),
		setPub4Any:  published(),
		setPub6Any:  published(),
		setTunnels:  {key: []field{service, vni}, origin: tunnelOrigin()},
		setPeers4:   {key: []field{service, vni, ipv4}, origin: tunnelOrigin(nftIPv4Source())},
		setPeers6:   {key: []field{service, vni, ipv6}, origin: tunnelOrigin(nftIPv6Source())},
		setUplinks:  {key: []field{ifname}},
	}
	for _, s := range []setID{setPub4, setPub4Any} {
		d[s].data = []field{ipv4, service}
	}
	for _, s := range []setID{setPub6, setPub6Any} {
		d[s].data = []field{ipv6, service}
	}
	for s, name := range [setCount]string{"nets", "pass", "internal", "isolated", "mode", "marked", "masq", "snat4", "snat6",
		"sub4", "sub6", "open4", "open6", "pub4", "pub6", "pub4a", "pub6a", "tunnels", "peers4", "peers6", "uplinks"} {
		d[s].name = name
	}
	return d
}

// size is how many bytes fields take in a key: each is padded to four.
func size(fields []field) (n int) {
	for _, f := range fields {
		n += padded(f.len)
	}
	return n
}

func padded(n int) int { return (n + 3) &^ 3 }

// typeOf is nft's number for fields put together.
func typeOf(fields []field) (typ uint32) {
	const bits = 6
	if len(fields) == 1 {
		return fields[0].typ
	}
	for _, f := range fields {
		typ = typ<<bits | f.typ
	}
	return typ
}
