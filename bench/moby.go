package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/containerd/log"
	"github.com/docker/docker/libnetwork"
	"github.com/docker/docker/libnetwork/config"
	"github.com/docker/docker/libnetwork/drivers/bridge"
	"github.com/docker/docker/libnetwork/ipamutils"
	"github.com/docker/docker/libnetwork/netlabel"
	"github.com/docker/docker/libnetwork/options"
	"github.com/docker/docker/libnetwork/types"
	"github.com/sirupsen/logrus"
)

// moby is Docker's libnetwork as its daemon uses it: a user-defined bridge network, which has the embedded name server, iptables, and
// no userland proxy. Its store is in memory like that of the others, so that no disk is measured.
type moby struct {
	mode    Mode
	control *libnetwork.Controller
	network *libnetwork.Network
	next    atomic.Uint32
}

type mobyAttachment struct {
	sandbox  *libnetwork.Sandbox
	endpoint *libnetwork.Endpoint
}

const mobyDir = "/run/moby" // of the mount namespace that this process has for itself

func newMoby(mode Mode) (*moby, error) {
	logrus.SetOutput(io.Discard) // its warnings are about a host without systemd, D-Bus and plugins
	if os.Getenv("BENCH_DEBUG") != "" {
		logrus.SetOutput(os.Stderr)
		_ = log.SetLevel("debug")
	}
	ctx := context.Background()
	control, err := libnetwork.New(ctx,
		config.OptionDataDir(filepath.Join(mobyDir, "data")),
		config.OptionExecRoot(filepath.Join(mobyDir, "exec")),
		config.OptionDefaultDriver("bridge"),
		config.OptionDefaultNetwork("bridge"),
		config.OptionDefaultAddressPoolConfig(ipamutils.GetLocalScopeDefaultNetworks()),
		config.OptionNetworkControlPlaneMTU(1500),
		config.OptionDriverConfig("bridge", options.Generic{netlabel.GenericData: options.Generic{
			"EnableIPForwarding":  true,
			"EnableIPTables":      true,
			"EnableIP6Tables":     mode.IPv6,
			"EnableUserlandProxy": false,
		}}),
	)
	if err != nil {
		return nil, fmt.Errorf("libnetwork: %w", err)
	}
	var pool6 []*libnetwork.IpamConf
	if mode.IPv6 {
		pool6 = []*libnetwork.IpamConf{{PreferredPool: "fd00:211::/64"}}
	}
	network, err := control.NewNetwork(ctx, "bridge", "bench", "",
		libnetwork.NetworkOptionEnableIPv4(true),
		libnetwork.NetworkOptionEnableIPv6(mode.IPv6),
		libnetwork.NetworkOptionDriverOpts(map[string]string{bridge.BridgeName: "moby0"}),
		libnetwork.NetworkOptionIpam("default", "", []*libnetwork.IpamConf{{PreferredPool: "10.211.0.0/16"}}, pool6, nil),
	)
	if err != nil {
		return nil, fmt.Errorf("libnetwork: network: %w", err)
	}
	return &moby{mode: mode, control: control, network: network}, nil
}

// Attach does what the daemon does when a container with ports is started.
func (m *moby) Attach() (Handle, error) {
	ctx := context.Background()
	n := int(m.next.Add(1))
	name := "c" + strconv.Itoa(n)
	dir := filepath.Join(mobyDir, "containers", name)
	var bindings []types.PortBinding
	var exposed []types.TransportPort
	for i := range m.mode.Ports {
		container := uint16(80 + i)
		bindings = append(bindings, types.PortBinding{Proto: types.TCP, Port: container})
		exposed = append(exposed, types.TransportPort{Proto: types.TCP, Port: container})
	}
	sandbox, err := m.control.NewSandbox(ctx, name,
		libnetwork.OptionHostname(name),
		libnetwork.OptionHostsPath(filepath.Join(dir, "hosts")),
		libnetwork.OptionResolvConfPath(filepath.Join(dir, "resolv.conf")),
		libnetwork.OptionPortMapping(bindings),
		libnetwork.OptionExposedPorts(exposed),
	)
	if err != nil {
		return nil, fmt.Errorf("libnetwork: sandbox: %w", err)
	}
	endpoint, err := m.network.CreateEndpoint(ctx, name,
		libnetwork.CreateOptionDNSNames([]string{name}),
		libnetwork.CreateOptionPortMapping(bindings),
		libnetwork.CreateOptionExposedPorts(exposed),
	)
	if err != nil {
		return nil, fmt.Errorf("libnetwork: endpoint: %w", err)
	}
	if err := endpoint.Join(ctx, sandbox); err != nil {
		return nil, fmt.Errorf("libnetwork: join: %w", err)
	}
	return mobyAttachment{sandbox, endpoint}, nil
}

func (m *moby) Detach(h Handle) error {
	ctx := context.Background()
	a := h.(mobyAttachment)
	return errors.Join(a.endpoint.Leave(ctx, a.sandbox), a.endpoint.Delete(ctx, false), a.sandbox.Delete(ctx))
}

func (m *moby) Close() error {
	m.control.Stop()
	return nil
}
