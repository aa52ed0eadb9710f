package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
)

// Client calls a daemon. Each method is one route of Server and fails with the kinds that the Controller's own would have; Unavailable
// also where no daemon answers or the context ends. Safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client of the daemon that listens on a unix socket. It connects with the first call.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{socket, &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version says what answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, path("version"), nil)
}

// Networks lists networks without their endpoints. Filters: id and name (a part of them), driver, scope, state, type (builtin, custom),
// label (key or key=value), dangling.
func (c *Client) Networks(ctx context.Context, f Filters) ([]Network, error) {
	return get[[]Network](ctx, c, path("networks"), f)
}

// Network finds a network by id, name or unique beginning of the id.
func (c *Client) Network(ctx context.Context, ref string) (Network, error) {
	return get[Network](ctx, c, path("networks", ref), nil)
}

// NetworkEverywhere is Network with the endpoints of all hosts, where Network has those of the daemon's.
func (c *Client) NetworkEverywhere(ctx context.Context, ref string) (Network, error) {
	return get[Network](ctx, c, path("networks", ref).with("global", "true"), nil)
}

// CreateNetwork makes a network.
func (c *Client) CreateNetwork(ctx context.Context, n NetworkSpec) (Created, error) {
	return post[Created](ctx, c, path("networks", "create"), n)
}

// UpdateNetwork changes labels and options of a network.
func (c *Client) UpdateNetwork(ctx context.Context, ref string, change NetworkChange) error {
	_, err := post[done](ctx, c, path("networks", ref, "update"), change)
	return err
}

// RemoveNetwork removes a network; by force also one that a driver or host that is away still holds part of.
func (c *Client) RemoveNetwork(ctx context.Context, ref string, force bool) error {
	return remove(ctx, c, path("networks", ref), force)
}

// PruneNetworks removes the networks that no endpoint is on. Filters: until, label, label!.
func (c *Client) PruneNetworks(ctx context.Context, f Filters) (Pruned, error) {
	return post[Pruned](ctx, c, path("networks", "prune").with("filters", f.query()), nothing{})
}

// Connect puts a sandbox on a network.
func (c *Client) Connect(ctx context.Context, network string, how Connection) error {
	_, err := post[done](ctx, c, path("networks", network, "connect"), how)
	return err
}

// Disconnect takes a sandbox off a network.
func (c *Client) Disconnect(ctx context.Context, network string, how Disconnection) error {
	_, err := post[done](ctx, c, path("networks", network, "disconnect"), how)
	return err
}

// Sandboxes lists sandboxes. Filters: id and name (a part of them), state, network, label.
func (c *Client) Sandboxes(ctx context.Context, f Filters) ([]Sandbox, error) {
	return get[[]Sandbox](ctx, c, path("sandboxes"), f)
}

// Sandbox finds a sandbox by id, name or unique beginning of the id.
func (c *Client) Sandbox(ctx context.Context, ref string) (Sandbox, error) {
	return get[Sandbox](ctx, c, path("sandboxes", ref), nil)
}

// CreateSandbox makes a sandbox and puts it on its networks, or does neither.
func (c *Client) CreateSandbox(ctx context.Context, s SandboxSpec) (Created, error) {
	return post[Created](ctx, c, path("sandboxes", "create"), s)
}

// RemoveSandbox removes a sandbox and its endpoints; by force also one that is unknown or that a driver that is away still holds part of.
func (c *Client) RemoveSandbox(ctx context.Context, ref string, force bool) error {
	return remove(ctx, c, path("sandboxes", ref), force)
}

// Publish publishes a container port while the sandbox runs.
func (c *Client) Publish(ctx context.Context, ref string, p PortChange) (Published, error) {
	return post[Published](ctx, c, path("sandboxes", ref, "publish"), p)
}

// Unpublish ends the publication of a container port.
func (c *Client) Unpublish(ctx context.Context, ref string, p PortChange) (Published, error) {
	return post[Published](ctx, c, path("sandboxes", ref, "unpublish"), p)
}

// Endpoints lists the endpoints of this host. Filters: id and name (a part of them), network, sandbox, label.
func (c *Client) Endpoints(ctx context.Context, f Filters) ([]Endpoint, error) {
	return get[[]Endpoint](ctx, c, path("endpoints"), f)
}

// Endpoint finds an endpoint of any network by id, name or unique beginning of the id.
func (c *Client) Endpoint(ctx context.Context, ref string) (Endpoint, error) {
	return get[Endpoint](ctx, c, path("endpoints", ref), nil)
}

// RemoveEndpoint removes an endpoint that is in no sandbox; by force any.
func (c *Client) RemoveEndpoint(ctx context.Context, ref string, force bool) error {
	return remove(ctx, c, path("endpoints", ref), force)
}

// Hosts lists the hosts that share networks with this one, itself included. Filters: id and name (a part of them).
func (c *Client) Hosts(ctx context.Context, f Filters) ([]Host, error) {
	return get[[]Host](ctx, c, path("hosts"), f)
}

// Host finds a host by id, name or unique beginning of the id.
func (c *Client) Host(ctx context.Context, ref string) (Host, error) {
	return get[Host](ctx, c, path("hosts", ref), nil)
}

// RemoveHost forgets a host that will not come back.
func (c *Client) RemoveHost(ctx context.Context, ref string) error {
	return remove(ctx, c, path("hosts", ref), false)
}

// target is the path and query of a request. err is what is wrong with the reference in it.
type target struct {
	path  string
	query url.Values
	err   error
}

func path(segments ...string) target {
	t := target{path: "/" + APIVersion, query: url.Values{}}
	for _, s := range segments {
		if s == "" {
			t.err = fmt.Errorf("%w: no name or id given", errdefs.ErrInvalidArgument)
		}
		s = url.PathEscape(s)
		if strings.Trim(s, ".") == "" { // "." and ".." would be taken for steps
			s = strings.ReplaceAll(s, ".", "%2E")
		}
		t.path += "/" + s
	}
	return t
}

func (t target) with(key, value string) target {
	if value != "" {
		t.query.Set(key, value)
	}
	return t
}

func get[Out any](ctx context.Context, c *Client, t target, f Filters) (Out, error) {
	return exchange[Out](ctx, c, http.MethodGet, t.with("filters", f.query()), nil)
}

func post[Out any](ctx context.Context, c *Client, t target, in any) (Out, error) {
	return exchange[Out](ctx, c, http.MethodPost, t, in)
}

func remove(ctx context.Context, c *Client, t target, force bool) error {
	if force {
		t = t.with("force", "true")
	}
	_, err := exchange[nothing](ctx, c, http.MethodDelete, t, nil)
	return err
}

// exchange sends a request and reads the reply to its end.
func exchange[Out any](ctx context.Context, c *Client, method string, t target, in any) (out Out, err error) {
	reply, err := c.send(ctx, method, t, in)
	if err != nil {
		return out, err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		return out, fmt.Errorf("read the reply of %s: %w: %w", c.socket, errdefs.ErrUnavailable, err)
	}
	if len(body) == 0 {
		return out, nil
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("reply of %s: %w: %w", c.socket, errdefs.ErrInternal, err)
	}
	return out, nil
}

// send returns a reply that is no error.
func (c *Client) send(ctx context.Context, method string, t target, in any) (*http.Response, error) {
	if t.err != nil {
		return nil, t.err
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		body = bytes.NewReader(text)
	}
	address := "http://sealane" + t.path
	if len(t.query) > 0 {
		address += "?" + t.query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %w", method, t.path, errdefs.ErrInvalidArgument, err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	reply, err := c.http.Do(r)
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	if reply.StatusCode < http.StatusBadRequest {
		return reply, nil
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxBody))
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	return nil, unwire(reply.StatusCode, text)
}

// unanswered says why there is no reply. The system's reason stays in the error.
func (c *Client) unanswered(ctx context.Context, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no reply from %s in time: %w: %w", c.socket, errdefs.ErrUnavailable, ctx.Err())
	}
	return fmt.Errorf("call %s: %w: %w", c.socket, errdefs.ErrUnavailable, err)
}
