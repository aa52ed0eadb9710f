package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Engine is asked what it knows of the networks of one driver, and of who is on them.
type Engine interface {
	Networks(ctx context.Context, driver string) ([]EngineNetwork, error)
	// Container is what one container is called; NotFound when there is none.
	Container(ctx context.Context, id string) (EngineContainer, error)
	// Changes yields the id of each container whose names on networks of a driver may be others now, until ctx ends or it fails. First
	// it yields "": what changed before that is not told, what changes after it is.
	Changes(ctx context.Context, driver string) iter.Seq2[string, error]
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

// EngineContainer is a container as an engine describes it.
type EngineContainer struct {
	Ends []EngineEnd // of networks, if it runs
}

// EngineEnd is where a container is on a network, by the engine's ids, and what it is called there: its name first, then aliases, the
// beginning of its id, its hostname. None of it need be a name that DNS allows.
type EngineEnd struct {
	Network, Endpoint string
	Names             []string
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
	const patience = 30 * time.Second
	transport := &http.Transport{DialContext: dial, ResponseHeaderTimeout: patience}
	return engine{&http.Client{Transport: transport, Timeout: patience}, &http.Client{Transport: transport}}, nil
}

// engine is one over HTTP: a few calls of its API, for which its own client would be a hundred packages.
type engine struct{ client, stream *http.Client }

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
	body, err := ask(ctx, e.client, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, longest)).Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("ask the engine: %s: %w", path, err)
	}
	return nil
}

// ask begins to read an answer.
func ask(ctx context.Context, client *http.Client, path string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	reply, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the engine: %w: %w", errdefs.ErrUnavailable, err)
	}
	switch reply.StatusCode {
	case http.StatusOK:
		return reply.Body, nil
	case http.StatusNotFound:
		reply.Body.Close()
		return nil, fmt.Errorf("ask the engine: %s: %w", path, errdefs.ErrNotFound)
	}
	defer reply.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(reply.Body, 1024))
	return nil, fmt.Errorf("ask the engine: %s: %s: %w: %s", path, reply.Status, errdefs.ErrUnavailable, text)
}

func (e engine) Container(ctx context.Context, id string) (EngineContainer, error) {
	var c engineContainer
	err := e.get(ctx, "/containers/"+url.PathEscape(id)+"/json", &c)
	return c.read(), err
}

// engineContainer is GET /containers/ID/json.
type engineContainer struct {
	Id, Name        string
	Config          struct{ Hostname, Domainname string }
	NetworkSettings struct {
		Networks map[string]struct {
			NetworkID, EndpointID string
			Aliases, DNSNames     []string
		}
	}
}

func (c engineContainer) read() (out EngineContainer) {
	const short = 12
	host := []string{c.Id[:min(short, len(c.Id))], c.Config.Hostname}
	if c.Config.Domainname != "" {
		host = append(host, c.Config.Hostname+"."+c.Config.Domainname)
	}
	for _, n := range c.NetworkSettings.Networks {
		if n.EndpointID != "" {
			names := slices.Concat([]string{strings.TrimPrefix(c.Name, "/")}, n.Aliases, n.DNSNames, host)
			out.Ends = append(out.Ends, EngineEnd{Network: n.NetworkID, Endpoint: n.EndpointID, Names: names})
		}
	}
	return out
}

// Changes asks for events since before it was called: an engine answers before it begins to listen to itself.
func (e engine) Changes(ctx context.Context, driver string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		const longest = 1 << 20
		now := time.Now()
		filter, _ := json.Marshal(map[string][]string{"type": {"network", "container"}, "event": {"connect", "rename"}}) // strings
		body, err := ask(ctx, e.stream, fmt.Sprintf("/events?since=%d.%09d&filters=%s", now.Unix(), now.Nanosecond(), url.QueryEscape(string(filter))))
		if err != nil {
			yield("", err)
			return
		}
		defer body.Close()
		if !yield("", nil) {
			return
		}
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, longest)
		for lines.Scan() {
			if id := changed(lines.Bytes(), driver); id != "" && !yield(id, nil) {
				return
			}
		}
		if err = lines.Err(); err == nil {
			err = io.ErrUnexpectedEOF
		}
		yield("", fmt.Errorf("listen to the engine: %w: %w", errdefs.ErrUnavailable, err))
	}
}

// changed is the container that an event is about; "" for one about something else.
func changed(event []byte, driver string) string {
	var e struct {
		Type, Action string
		Actor        struct {
			ID         string
			Attributes map[string]string
		}
	}
	switch err := json.Unmarshal(event, &e); {
	case err != nil:
	case e.Type == "container" && e.Action == "rename":
		return e.Actor.ID
	case e.Type == "network" && e.Action == "connect" && e.Actor.Attributes["type"] == driver:
		return e.Actor.Attributes["container"]
	}
	return ""
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
