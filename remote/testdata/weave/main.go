// Weave is a network plugin as somebody who knows nothing of sealane writes it: bridges and veths, by go-plugins-helpers alone.
package main

import (
	"fmt"
	"log"
	"os"
	"sync"

	"github.com/docker/go-plugins-helpers/network"
	"github.com/vishvananda/netlink"
)

type driver struct {
	mu       sync.Mutex
	gateways map[string]string // by network
	trace    *log.Logger
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: weave SOCKET")
	}
	os.Remove(os.Args[1])
	d := &driver{gateways: map[string]string{}, trace: log.New(os.Stdout, "", 0)}
	log.Fatal(network.NewHandler(d).ServeUnix(os.Args[1], 0))
}

func (d *driver) GetCapabilities() (*network.CapabilitiesResponse, error) {
	return &network.CapabilitiesResponse{Scope: network.LocalScope}, nil
}

func bridge(id string) string { return "wb" + id[:8] }
func host(id string) string   { return "wh" + id[:8] }
func guest(id string) string  { return "wg" + id[:8] }

func (d *driver) CreateNetwork(r *network.CreateNetworkRequest) error {
	d.trace.Println("CreateNetwork")
	if o, _ := r.Options["com.docker.network.generic"].(map[string]interface{}); o["refuse"] != nil {
		return fmt.Errorf("weave does not like %v", o["refuse"])
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge(r.NetworkID)}}
	if err := netlink.LinkAdd(b); err != nil {
		return err
	}
	a, err := netlink.ParseAddr(r.IPv4Data[0].Gateway)
	if err != nil {
		return err
	}
	d.gateways[r.NetworkID] = a.IP.String()
	if err := netlink.AddrAdd(b, a); err != nil {
		return err
	}
	return netlink.LinkSetUp(b)
}

func (d *driver) DeleteNetwork(r *network.DeleteNetworkRequest) error {
	d.trace.Println("DeleteNetwork")
	return del(bridge(r.NetworkID))
}

func del(name string) error {
	l, err := netlink.LinkByName(name)
	if _, gone := err.(netlink.LinkNotFoundError); gone {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

func (d *driver) CreateEndpoint(r *network.CreateEndpointRequest) (*network.CreateEndpointResponse, error) {
	d.trace.Println("CreateEndpoint", r.Interface.Address)
	return &network.CreateEndpointResponse{Interface: &network.EndpointInterface{}}, nil
}

func (d *driver) DeleteEndpoint(r *network.DeleteEndpointRequest) error {
	d.trace.Println("DeleteEndpoint")
	return del(host(r.EndpointID))
}

func (d *driver) EndpointInfo(r *network.InfoRequest) (*network.InfoResponse, error) {
	return &network.InfoResponse{Value: map[string]string{"weave.port": host(r.EndpointID)}}, nil
}

func (d *driver) Join(r *network.JoinRequest) (*network.JoinResponse, error) {
	d.trace.Println("Join")
	b, err := netlink.LinkByName(bridge(r.NetworkID))
	if err != nil {
		return nil, err
	}
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host(r.EndpointID), MasterIndex: b.Attrs().Index}, PeerName: guest(r.EndpointID)}
	if err := netlink.LinkAdd(v); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(v); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &network.JoinResponse{InterfaceName: network.InterfaceName{SrcName: guest(r.EndpointID), DstPrefix: "weave"}, Gateway: d.gateways[r.NetworkID]}, nil
}

func (d *driver) Leave(r *network.LeaveRequest) error {
	d.trace.Println("Leave")
	return del(host(r.EndpointID))
}

func (d *driver) ProgramExternalConnectivity(*network.ProgramExternalConnectivityRequest) error {
	d.trace.Println("ProgramExternalConnectivity")
	return nil
}

func (d *driver) RevokeExternalConnectivity(*network.RevokeExternalConnectivityRequest) error {
	d.trace.Println("RevokeExternalConnectivity")
	return nil
}

func (d *driver) AllocateNetwork(*network.AllocateNetworkRequest) (*network.AllocateNetworkResponse, error) {
	return &network.AllocateNetworkResponse{}, nil
}
func (d *driver) FreeNetwork(*network.FreeNetworkRequest) error       { return nil }
func (d *driver) DiscoverNew(*network.DiscoveryNotification) error    { return nil }
func (d *driver) DiscoverDelete(*network.DiscoveryNotification) error { return nil }
