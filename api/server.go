package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
)

const (
	maxBody  = 1 << 20          // bytes of a request
	patience = 30 * time.Second // for a request's body, and for a reader of events to take one
)

// Options of NewServer.
type Options struct {
	Host    Host         // this machine, as GET /hosts tells it without a cluster store
	Version Version      // as GET /version tells it
	Logger  *slog.Logger // nil: nothing is logged
}

// Server serves a Controller as HTTP. It implements http.Handler and is safe for concurrent use.
type Server struct {
	ctl    *sealane.Controller
	o      Options
	log    *slog.Logger
	mux    *http.ServeMux
	closed chan struct{}
	close  func()
}

// NewServer makes a server and the predefined networks that are absent. The caller closes the Controller after the last request.
// A predefined network that cannot be made is told in the log and does not keep the others from being served.
func NewServer(ctx context.Context, ctl *sealane.Controller, o Options) (*Server, error) {
	s := &Server{ctl: ctl, o: o, log: o.Logger, mux: http.NewServeMux(), closed: make(chan struct{})}
	s.close = sync.OnceFunc(func() { close(s.closed) })
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.predefine(ctx); err != nil {
		return nil, err
	}
	s.routes()
	return s, nil
}

// Close ends the streams of events, which would go on for ever. Other requests are finished as usual.
func (s *Server) Close() { s.close() }

// routes is the list of what the API has. Each function of the server has a method of its own on Client.
func (s *Server) routes() {
	route(s, "GET /version", s.version)
	route(s, "GET /networks", s.networks)
	route(s, "GET /networks/{ref}", s.network)
	route(s, "POST /networks/create", s.createNetwork)
	route(s, "POST /networks/prune", s.pruneNetworks)
	route(s, "POST /networks/{ref}/update", s.updateNetwork)
	route(s, "POST /networks/{ref}/connect", s.connect)
	route(s, "POST /networks/{ref}/disconnect", s.disconnect)
	route(s, "DELETE /networks/{ref}", s.removeNetwork)
	route(s, "GET /sandboxes", s.sandboxes)
	route(s, "GET /sandboxes/{ref}", s.sandbox)
	route(s, "POST /sandboxes/create", s.createSandbox)
	route(s, "POST /sandboxes/{ref}/publish", s.publish)
	route(s, "POST /sandboxes/{ref}/unpublish", s.unpublish)
	route(s, "DELETE /sandboxes/{ref}", s.removeSandbox)
	route(s, "GET /endpoints", s.endpoints)
	route(s, "GET /endpoints/{ref}", s.endpoint)
	route(s, "DELETE /endpoints/{ref}", s.removeEndpoint)
	route(s, "GET /hosts", s.hosts)
	route(s, "GET /hosts/{ref}", s.host)
	route(s, "DELETE /hosts/{ref}", s.removeHost)
	s.mux.HandleFunc("GET /"+APIVersion+"/events", s.events)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, pattern := s.mux.Handler(r); pattern == "" { // the mux would answer 404 and 405 in plain text
		s.refuse(w, r, fmt.Errorf("%s %s: %w: the API has no such route", r.Method, r.URL.Path, errdefs.ErrNotFound))
		return
	}
	s.mux.ServeHTTP(w, r)
}

// call is a request beside its body.
type call struct {
	ref     string // of the object named in the path
	filters Filters
	force   bool
	global  bool // the endpoints of all hosts
}

// nothing is the body of requests that have none, and of replies with status 204; done that of replies with status 200, as Docker has it
// where something was changed and not removed.
type (
	nothing struct{}
	done    struct{}
)

// route serves one function. In nothing: the body of the request is not read.
func route[In, Out any](s *Server, pattern string, do func(context.Context, call, In) (Out, error)) {
	method, path, _ := strings.Cut(pattern, " ")
	s.mux.HandleFunc(method+" /"+APIVersion+path, func(w http.ResponseWriter, r *http.Request) {
		out, err := answer(w, r, do)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		s.log.Debug("api", "method", r.Method, "path", r.URL.Path)
		switch any(out).(type) {
		case nothing:
			w.WriteHeader(http.StatusNoContent)
		case done:
			w.WriteHeader(http.StatusOK)
		case Created:
			s.reply(w, http.StatusCreated, out)
		default:
			s.reply(w, http.StatusOK, out)
		}
	})
}

func answer[In, Out any](w http.ResponseWriter, r *http.Request, do func(context.Context, call, In) (Out, error)) (out Out, err error) {
	c, err := callOf(r)
	if err != nil {
		return out, err
	}
	var in In
	if _, bare := any(in).(nothing); !bare {
		// A body that does not come must not hold the connection; not every writer has a deadline.
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(patience))
		if err := decode(http.MaxBytesReader(w, r.Body, maxBody), &in); err != nil {
			return out, err
		}
		_ = control.SetReadDeadline(time.Time{})
	}
	return do(r.Context(), c, in)
}

func callOf(r *http.Request) (c call, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return c, fmt.Errorf("query: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	c.ref = r.PathValue("ref")
	for key := range query {
		switch value := query.Get(key); key {
		case "filters":
			if c.filters, err = parseFilters(value); err != nil {
				return c, err
			}
		case "force":
			if c.force, err = strconv.ParseBool(value); err != nil {
				return c, fmt.Errorf("query force=%.40s: %w: want true or false", value, errdefs.ErrInvalidArgument)
			}
		case "global":
			if c.global, err = strconv.ParseBool(value); err != nil {
				return c, fmt.Errorf("query global=%.40s: %w: want true or false", value, errdefs.ErrInvalidArgument)
			}
		default:
			return c, fmt.Errorf("query: %w: no parameter %.80q is known", errdefs.ErrInvalidArgument, key)
		}
	}
	return c, nil
}

// decode reads one JSON value and nothing else. What is wrong with it, an unknown field included, is InvalidArgument.
func decode(body io.Reader, into any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); errors.Is(more, io.EOF) {
			return nil
		} else if err = more; err == nil {
			err = errors.New("something follows the JSON object")
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		err = fmt.Errorf("it is larger than %d bytes", large.Limit)
	case errors.Is(err, io.EOF):
		err = errors.New("it is empty; want a JSON object")
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("the JSON object ends early")
	}
	return fmt.Errorf("request body: %w: %w", errdefs.ErrInvalidArgument, err)
}

// refuse answers with an error. Those that are nobody's mistake are logged.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, status := wire(err)
	if r.Context().Err() != nil {
		s.log.Debug("api: the caller went away", "method", r.Method, "path", r.URL.Path, "error", err)
	} else if status >= http.StatusInternalServerError {
		s.log.Error("api", "method", r.Method, "path", r.URL.Path, "kind", e.Kind, "error", err)
	}
	s.reply(w, status, e)
}

func (s *Server) reply(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // of our own values
		s.log.Error("api: encode a reply", "error", err)
		status, text = http.StatusInternalServerError, []byte(`{"message":"the reply cannot be encoded","kind":"Internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a caller that is gone is not our trouble
}

func (s *Server) version(context.Context, call, nothing) (Version, error) {
	v := s.o.Version
	v.APIVersion = APIVersion
	return v, nil
}

// afterwards is a context for taking back what a call came to: the caller's own may be over.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), patience)
}
