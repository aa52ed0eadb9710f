package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"github.com/containerd/errdefs"
)

// Events opens the stream of what happens from now on: when it returns, the daemon listens to itself for us. The stream ends with ctx,
// with the caller's loop, or with an error: ResourceExhausted when we were too slow, Unavailable when the daemon goes away. Range over it
// once, or end ctx. Filters: type, event, network, sandbox (or container), endpoint.
func (c *Client) Events(ctx context.Context, f Filters) (iter.Seq2[Event, error], error) {
	reply, err := c.send(ctx, http.MethodGet, path("events").with("filters", f.query()), nil)
	if err != nil {
		return nil, err
	}
	return func(yield func(Event, error) bool) {
		defer reply.Body.Close()
		for lines := json.NewDecoder(reply.Body); ; {
			e, err := nextEvent(lines)
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("events: %w: the daemon has ended the stream", errdefs.ErrUnavailable)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}, nil
}

// nextEvent reads a line: an event, or the error that ends the stream.
func nextEvent(lines *json.Decoder) (Event, error) {
	var line struct {
		Event
		Error
	}
	if err := lines.Decode(&line); err != nil {
		return Event{}, err
	}
	if line.Error.Kind != "" {
		return Event{}, &line.Error
	}
	return line.Event, nil
}
