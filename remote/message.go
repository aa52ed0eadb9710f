package remote

import (
	"net/netip"
	"time"
)

// The verbs, as paths.
const (
	activate = "/Plugin.Activate"

	networkCapabilities  = "/NetworkDriver.GetCapabilities"
	gatewayCheck         = "/NetworkDriver.GwAllocCheck"
	allocateNetwork      = "/NetworkDriver.AllocateNetwork"
	freeNetwork          = "/NetworkDriver.FreeNetwork"
	createNetwork        = "/NetworkDriver.CreateNetwork"
	deleteNetwork        = "/NetworkDriver.DeleteNetwork"
	createEndpoint       = "/NetworkDriver.CreateEndpoint"
	deleteEndpoint       = "/NetworkDriver.DeleteEndpoint"
	endpointInfo         = "/NetworkDriver.EndpointOperInfo"
	join                 = "/NetworkDriver.Join"
	leave                = "/NetworkDriver.Leave"
	programConnectivity  = "/NetworkDriver.ProgramExternalConnectivity"
	revokeConnectivity   = "/NetworkDriver.RevokeExternalConnectivity"
	discoverNew          = "/NetworkDriver.DiscoverNew"
	discoverDelete       = "/NetworkDriver.DiscoverDelete"
	ipamCapabilities     = "/IpamDriver.GetCapabilities"
	defaultAddressSpaces = "/IpamDriver.GetDefaultAddressSpaces"
	requestPool          = "/IpamDriver.RequestPool"
	releasePool          = "/IpamDriver.ReleasePool"
	requestAddress       = "/IpamDriver.RequestAddress"
	releaseAddress       = "/IpamDriver.ReleaseAddress"
)

// What a plugin says that it implements.
const (
	implementsNetwork = "NetworkDriver"
	implementsIPAM    = "IpamDriver"
)

// Keys of options, as Docker names them.
const (
	docker         = "com.docker.network."
	optGeneric     = docker + "generic"
	optIPv4        = docker + "enable_ipv4"
	optIPv6        = docker + "enable_ipv6"
	optInternal    = docker + "internal"
	optPorts       = docker + "portmap"
	optExposed     = docker + "endpoint.exposedports"
	optMAC         = docker + "endpoint.macaddress"
	optGateway     = docker + "gateway"
	optAddressType = "RequestAddressType"
)

// AddressSpace is the key in ipam.Pool's Data under which the server hands on a pool's address space: CreateNetwork names no pool.
const AddressSpace = "AddressSpace"

// Extra is what sealane tells beyond the protocol, in the field "Sealane" of requests. Each field may be missing.
type Extra struct {
	Request  string            `json:",omitempty"` // random; a request that is sent again has it again
	Deadline time.Time         `json:",omitzero"`  // nobody reads the reply after it
	Network  string            `json:",omitempty"` // names
	Endpoint string            `json:",omitempty"`
	Aliases  []string          `json:",omitempty"`
	Sandbox  string            `json:",omitempty"` // id
	Labels   map[string]string `json:",omitempty"` // of the endpoint, or of the network in its own verbs
	MAC      string            `json:",omitempty"` // that the endpoint has, whoever chose it
	Owner    string            `json:",omitempty"` // of a pool or address: asking again by name is answered as the first time
	Exclude  []netip.Prefix    `json:",omitempty"` // subnets that a pool should keep clear of
}

// answer is the part of every reply that says whether it is one. Network drivers write errors to Err, IPAM drivers to Error; plugins made
// with go-plugins-helpers write Err in both.
type answer struct {
	Err     string      `json:",omitempty"`
	Error   string      `json:",omitempty"`
	Sealane *replyExtra `json:",omitempty"`
}

// replyExtra is Extra's counterpart in replies.
type replyExtra struct {
	Kind      string `json:",omitempty"` // of an error
	Publishes bool   `json:",omitempty"` // capability: the driver publishes ports itself
}

type (
	activation struct{ Implements []string }

	networkCapability struct {
		Scope, ConnectivityScope string
		GwAllocChecker           bool        `json:",omitempty"`
		Sealane                  *replyExtra `json:",omitempty"`
	}
	gatewayRequest struct {
		Options map[string]any
		Sealane *Extra `json:",omitempty"`
	}
	gatewayReply struct{ SkipIPv4, SkipIPv6 bool }

	ipamData struct {
		AddressSpace string
		Pool         string            `json:",omitempty"`
		Gateway      string            `json:",omitempty"`
		AuxAddresses map[string]string `json:",omitempty"`
	}
	networkRequest struct {
		NetworkID          string
		Options            map[string]any
		IPv4Data, IPv6Data []ipamData
		Sealane            *Extra `json:",omitempty"`
	}
	networkName struct {
		NetworkID string
		Sealane   *Extra `json:",omitempty"`
	}
	iface struct{ Address, AddressIPv6, MacAddress string }

	endpointRequest struct {
		NetworkID, EndpointID string
		Interface             *iface
		Options               map[string]any
		Sealane               *Extra `json:",omitempty"`
	}
	endpointReply struct{ Interface *iface }

	endpointName struct {
		NetworkID, EndpointID string
		Sealane               *Extra `json:",omitempty"`
	}
	infoReply struct{ Value map[string]any }

	joinRequest struct {
		NetworkID, EndpointID, SandboxKey string
		Options                           map[string]any
		Sealane                           *Extra `json:",omitempty"`
	}
	interfaceName struct {
		SrcName   string
		DstName   string `json:",omitempty"`
		DstPrefix string
	}
	staticRoute struct {
		Destination string
		RouteType   int // 0: through NextHop, 1: on the link
		NextHop     string
	}
	joinReply struct {
		InterfaceName         *interfaceName
		Gateway, GatewayIPv6  string
		StaticRoutes          []staticRoute
		DisableGatewayService bool
	}
	programRequest struct {
		NetworkID, EndpointID string
		Options               map[string]any
		Sealane               *Extra `json:",omitempty"`
	}
	// port is a published port, or with Proto and Port alone an exposed one. Proto is the number of the IP protocol.
	port struct {
		Proto       uint8
		IP          string
		Port        uint16
		HostIP      string
		HostPort    uint16
		HostPortEnd uint16
	}
	exposedPort struct {
		Proto uint8
		Port  uint16
	}
)

type (
	ipamCapability struct{ RequiresMACAddress, RequiresRequestReplay bool }
	addressSpaces  struct{ LocalDefaultAddressSpace, GlobalDefaultAddressSpace string }
	poolRequest    struct {
		AddressSpace, Pool, SubPool string
		Options                     map[string]string
		V6                          bool
		Sealane                     *Extra `json:",omitempty"`
	}
	poolReply struct {
		PoolID, Pool string
		Data         map[string]string
	}
	poolName struct {
		PoolID  string
		Sealane *Extra `json:",omitempty"`
	}
	addressRequest struct {
		PoolID, Address string
		Options         map[string]string
		Sealane         *Extra `json:",omitempty"`
	}
	addressReply struct {
		Address string
		Data    map[string]string
	}
	addressName struct {
		PoolID, Address string
		Sealane         *Extra `json:",omitempty"`
	}
)
