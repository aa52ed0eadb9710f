package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/docker/go-connections/sockets"
	"github.com/docker/go-plugins-helpers/sdk"

	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// Server is a plugin: drivers behind the protocol. Safe for concurrent use.
type Server struct {
	sdk.Handler
	ctx    context.Context
	cancel context.CancelFunc
	calls  sync.WaitGroup // verbs under way
	mu     sync.Mutex     // guards closed and what joins calls
	closed bool
	refuse func(verb string, err error)
}

// NewServer serves a network driver, an address driver or both; nil: it does not implement that. Ids reach the drivers as the caller has
// them, and of what a verb does not say the records are empty: a caller of Docker's moves the link itself, so Info.Key is. refused, which
// may be nil, is told of each error that is answered.
func NewServer(d netdriver.Driver, a ipam.Driver, refused func(verb string, err error)) *Server {
	var implements []string
	if d != nil {
		implements = append(implements, implementsNetwork)
	}
	if a != nil {
		implements = append(implements, implementsIPAM)
	}
	manifest, _ := json.Marshal(activation{implements}) // strings
	if refused == nil {
		refused = func(string, error) {}
	}
	s := &Server{Handler: sdk.NewHandler(string(manifest)), refuse: refused}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if d != nil {
		s.serveNetwork(networkServer{d})
	}
	if a != nil {
		s.serveIPAM(ipamServer{a})
	}
	return s
}

// Listen makes the socket of a plugin, root's alone unless a group is to use it as well: whoever can has root's power over the network.
// A socket that nobody listens on any more is replaced. group 0: none.
func Listen(path string, group int) (net.Listener, error) {
	mode := os.FileMode(0o600)
	if group != 0 {
		mode = 0o660
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w: somebody listens there", path, errdefs.ErrAlreadyExists)
	}
	return sockets.NewUnixSocketWithOpts(path, sockets.WithChown(0, group), sockets.WithChmod(mode))
}

// Close waits for the verbs under way, or until ctx ends, and refuses new ones. Its listeners are their openers' to close, before.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(done)
	}()
	defer s.cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("verbs under way are cut short: %w", context.Cause(ctx))
	}
}

func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.calls.Add(1)
	}
	return !s.closed
}

// handle serves one verb. An error is answered with a failing status in the fields that engines look in: Err, and for IPAM Error too.
func handle[Q, R any](s *Server, path string, verb func(context.Context, Q) (R, error)) {
	s.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if !s.begin() {
			fail(w, path, fmt.Errorf("%w: the plugin is stopping", errdefs.ErrUnavailable))
			return
		}
		defer s.calls.Done()
		var q Q
		err := decode(w, r, &q)
		var reply R
		if err == nil {
			// An engine that hangs up does not mean that its wish is void: it repeats it, or undoes it by its name.
			ctx := context.WithoutCancel(r.Context())
			ctx, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(s.ctx, cancel)
			reply, err = verb(ctx, q)
			stop()
			cancel()
		}
		if err != nil {
			s.refuse(strings.TrimPrefix(path, "/"), err)
			fail(w, path, err)
			return
		}
		sdk.EncodeResponse(w, reply, false)
	})
}

func fail(w http.ResponseWriter, path string, err error) {
	a := answer{Err: err.Error()}
	if kind := kindOf(err); kind != "" {
		a.Sealane = &replyExtra{Kind: kind}
	}
	if strings.HasPrefix(path, "/"+implementsIPAM) {
		a.Error = a.Err
	}
	sdk.EncodeResponse(w, a, true)
}

// decode reads a request; an empty body and null are an empty request.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	const longest = 1 << 20
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, longest))
	if err == nil && len(strings.TrimSpace(string(text))) > 0 {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("request: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return nil
}

// none is an empty request or reply.
type none struct{}
