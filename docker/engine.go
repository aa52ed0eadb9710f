package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Engine is asked what it knows of the networks of one driver.
type Engine interface {
	Networks(ctx context.Context, driver string) ([]EngineNetwork, error)
}

// EngineNetwork is a network as an engine lists it.
type EngineNetwork struct {
	ID, Name  string
	Subnets   []netip.Prefix
	Endpoints map[string]EngineEndpoint // of its running containers, by id
}

// EngineEndpoint is a container's end of a network.
type EngineEndpoint struct {
	Container string // id
	Addresses []netip.Addr
}

// NewEngine asks the engine at a URL like DOCKER_HOST's: unix:///run/docker.sock, the one that is meant by "".
func NewEngine(host string) (Engine, error) {
	if host == "" {
		host = "unix:///run/docker.sock"
	}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return nil, fmt.Errorf("engine %.200q: %w: the engine of this host is asked, by unix://", host, errdefs.ErrInvalidArgument)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return engine{&http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 30 * time.Second}}, nil
}

type engine struct{ client *http.Client }

func (e engine) Networks(ctx context.Context, driver string) ([]EngineNetwork, error) {
	filter, _ := json.Marshal(map[string][]string{"driver": {driver}}) // strings
	var listed []struct{ Id string }
	if err := e.get(ctx, "/networks?filters="+url.QueryEscape(string(filter)), &listed); err != nil {
		return nil, err
	}
	var all []EngineNetwork
	for _, l := range listed {
		var n engineNetwork
		err := e.get(ctx, "/networks/"+url.PathEscape(l.Id), &n)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, n.read())
	}
	return all, nil
}

// get reads one answer of the engine's.
func (e engine) get(ctx context.Context, path string, into any) error {
	const longest = 64 << 20
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	reply, err := e.client.Do(r)
	if err != nil {
		return fmt.Errorf("ask the engine: %w: %w", errdefs.ErrUnavailable, err)
	}
	defer reply.Body.Close()
	switch reply.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return fmt.Errorf("ask the engine: %s: %w", path, errdefs.ErrNotFound)
	default:
		text, _ := io.ReadAll(io.LimitReader(reply.Body, 1024))
		return fmt.Errorf("ask the engine: %s: %s: %w: %s", path, reply.Status, errdefs.ErrUnavailable, text)
	}
	if err := json.NewDecoder(io.LimitReader(reply.Body, longest)).Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("ask the engine: %s: %w", path, err)
	}
	return nil
}

// engineNetwork is GET /networks/ID.
type engineNetwork struct {
	Id, Name   string
	IPAM       struct{ Config []struct{ Subnet string } }
	Containers map[string]struct{ EndpointID, IPv4Address, IPv6Address string }
}

func (n engineNetwork) read() EngineNetwork {
	out := EngineNetwork{ID: n.Id, Name: n.Name, Endpoints: map[string]EngineEndpoint{}}
	for _, c := range n.IPAM.Config {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil {
			out.Subnets = append(out.Subnets, p.Masked())
		}
	}
	for id, c := range n.Containers {
		e := EngineEndpoint{Container: id}
		for _, text := range []string{c.IPv4Address, c.IPv6Address} {
			if p, err := netip.ParsePrefix(text); err == nil {
				e.Addresses = append(e.Addresses, p.Addr())
			}
		}
		out.Endpoints[c.EndpointID] = e
	}
	return out
}
