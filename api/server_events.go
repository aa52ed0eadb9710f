package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// events sends one JSON object a line, from when the headers go out until the caller or the server ends it. An error ends it too and is
// the last line.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	c, err := callOf(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	chooses := eventSelector()
	filters, err := s.resolved(r.Context(), c.filters)
	if err == nil {
		_, err = choose(chooses, filters, nil)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-s.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	events := s.ctl.Events(ctx)
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	_ = control.Flush()
	lines := json.NewEncoder(w)
	for e, err := range events {
		_ = control.SetWriteDeadline(time.Now().Add(patience)) // a reader that does not read must not hold us
		if err != nil {
			last, _ := wire(err)
			_ = lines.Encode(last)
			return
		}
		event := eventOf(e)
		filters.learn(event)
		if ok, err := chooses.match(filters, event); err != nil || !ok {
			continue
		}
		if lines.Encode(event) != nil || control.Flush() != nil {
			return
		}
	}
}
