package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

const (
	mediaType   = "application/vnd.docker.plugins.v1.2+json"
	hostName    = "plugin.moby.localhost" // as engines say; a socket has no name
	maxReply    = 1 << 20
	maxHeader   = 64 << 10
	maxIdle     = 16 // connections kept for the next call
	idleTimeout = time.Minute
)

// plugin is the connection to one plugin. Safe for concurrent use.
type plugin struct {
	name    string
	at      address
	timeout time.Duration
	client  *http.Client
	breaker breaker

	mu         sync.Mutex // guards what is below: what the plugin said of itself, until a call gets no reply
	implements []string
	network    *networkCapability
	ipam       *ipamCapability
	spaces     *addressSpaces
}

func newPlugin(name string, at address, timeout time.Duration) *plugin {
	dialer := &net.Dialer{Timeout: timeout}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, at.network, at.addr)
		},
		MaxResponseHeaderBytes: maxHeader, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleTimeout, DisableCompression: true,
	}
	if at.tls != nil {
		transport.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&tls.Dialer{NetDialer: dialer, Config: at.tls}).DialContext(ctx, at.network, at.addr)
		}
	}
	return &plugin{name: name, at: at, timeout: timeout, client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (p *plugin) close() { p.client.CloseIdleConnections() }

// call sends one verb and reads its reply. Unavailable: no reply came; NotImplemented: the plugin does not know the verb; else what the
// plugin says. into may be nil.
func (p *plugin) call(ctx context.Context, verb string, request, into any) error {
	if err := p.activated(ctx, verb); err != nil {
		return fmt.Errorf("plugin %s: %w", p.name, err)
	}
	return p.ask(ctx, verb, request, into)
}

// ask is call without activation.
func (p *plugin) ask(ctx context.Context, verb string, request, into any) error {
	if err := p.exchange(ctx, verb, request, into); err != nil {
		return fmt.Errorf("plugin %s: %s: %w", p.name, strings.TrimPrefix(verb, "/"), err)
	}
	return nil
}

func (p *plugin) exchange(ctx context.Context, verb string, request, into any) error {
	if err := p.breaker.enter(time.Now()); err != nil {
		return err
	}
	mine, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	status, body, err := p.send(mine, verb, request)
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		p.breaker.givenUp()
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	case err != nil:
		p.forget()
		p.breaker.silent(time.Now(), err)
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	p.breaker.answered()
	return read(status, body, into)
}

// undo makes up for a verb whose answer is refused, and returns why with what went wrong about it. The caller's context may be over.
func (p *plugin) undo(ctx context.Context, why error, verb func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	return errors.Join(why, verb(ctx))
}

// read makes a reply or an error of what came.
func read(status int, body []byte, into any) error {
	if len(body) > maxReply {
		return badReply("it has more than %d bytes", maxReply)
	}
	if status == http.StatusNotFound {
		return fmt.Errorf("the plugin does not know this verb: %w", errdefs.ErrNotImplemented)
	}
	var a answer
	empty := len(bytes.TrimSpace(body)) == 0
	bad := error(nil)
	if !empty {
		bad = json.Unmarshal(body, &a)
	}
	if err := refused(status, a, body); err != nil {
		return err
	}
	if bad == nil && into != nil && !empty {
		bad = json.Unmarshal(body, into)
	}
	if bad != nil {
		return badReply("%.80q: %w", body, bad)
	}
	return nil
}

// send makes one request, again while nobody listens where the plugin should be: it may be restarting.
func (p *plugin) send(ctx context.Context, verb string, request any) (status int, body []byte, err error) {
	var content []byte
	if request != nil {
		if content, err = json.Marshal(request); err != nil {
			return 0, nil, err
		}
	}
	const patience, last = 100 * time.Millisecond, 800 * time.Millisecond
	for pause := patience; ; pause *= 2 {
		status, body, err = p.post(ctx, verb, content)
		if err == nil || pause > last || !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT) {
			return status, body, err
		}
		select {
		case <-ctx.Done():
			return 0, nil, err
		case <-time.After(pause):
		}
	}
}

func (p *plugin) post(ctx context.Context, verb string, content []byte) (int, []byte, error) {
	scheme := "http"
	if p.at.tls != nil {
		scheme = "https"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+hostName+verb, bytes.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Accept", mediaType)
	reply, err := p.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxReply+1))
	return reply.StatusCode, body, err
}

// activated makes sure that the plugin was asked what it implements, and that the verb is of that.
func (p *plugin) activated(ctx context.Context, verb string) error {
	p.mu.Lock()
	implements := p.implements
	p.mu.Unlock()
	if implements == nil {
		var a activation
		if err := p.exchange(ctx, activate, nil, &a); err != nil {
			return fmt.Errorf("activate: %w", err)
		}
		implements = append([]string{}, a.Implements...)
		p.mu.Lock()
		p.implements = implements
		p.mu.Unlock()
	}
	kind, _, _ := strings.Cut(strings.TrimPrefix(verb, "/"), ".")
	if !slices.Contains(implements, kind) {
		return fmt.Errorf("%w: it is no %s, it implements %q", errdefs.ErrInvalidArgument, kind, implements)
	}
	return nil
}

// forget what the plugin said of itself: one that comes back may be another.
func (p *plugin) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.implements, p.network, p.ipam, p.spaces = nil, nil, nil, nil
}

// networkCapability asks what the network driver is, once.
func (p *plugin) networkCapability(ctx context.Context) (networkCapability, error) {
	return once(p, &p.network, func(c *networkCapability) error { return p.call(ctx, networkCapabilities, nil, c) })
}

func (p *plugin) ipamCapability(ctx context.Context) (ipamCapability, error) {
	return once(p, &p.ipam, func(c *ipamCapability) error {
		err := p.call(ctx, ipamCapabilities, nil, c)
		if errdefs.IsNotImplemented(err) { // a plugin from before the verb
			return nil
		}
		return err
	})
}

func (p *plugin) addressSpaces(ctx context.Context) (addressSpaces, error) {
	return once(p, &p.spaces, func(s *addressSpaces) error { return p.call(ctx, defaultAddressSpaces, nil, s) })
}

// once keeps an answer in the plugin.
func once[T any](p *plugin, kept **T, ask func(*T) error) (T, error) {
	p.mu.Lock()
	known := *kept
	p.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var answer T
	if err := ask(&answer); err != nil {
		return answer, err
	}
	p.mu.Lock()
	*kept = &answer
	p.mu.Unlock()
	return answer, nil
}

// stamp completes what a request tells beyond the protocol.
func stamp(ctx context.Context, x *Extra, timeout time.Duration) *Extra {
	id := make([]byte, 8)
	rand.Read(id) // never fails
	x.Request, x.Deadline = hex.EncodeToString(id), time.Now().Add(timeout).UTC()
	if d, has := ctx.Deadline(); has && d.Before(x.Deadline) {
		x.Deadline = d.UTC()
	}
	return x
}
