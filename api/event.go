package api

import (
	"time"

	"github.com/sealane/sealane"
)

// Event is something that happened, as Docker tells it.
type Event struct {
	Type   string // network, endpoint, sandbox, host
	Action string // create, connect, disconnect, destroy, prune, update, repair, …
	Actor  Actor
	Scope  string `json:"scope"`

	Time     int64 `json:"time"`     // seconds since 1970
	TimeNano int64 `json:"timeNano"` // nanoseconds since 1970
}

// Actor is what an event happened to.
type Actor struct {
	ID         string
	Attributes map[string]string
}

// When is the time of the event.
func (e Event) When() time.Time { return time.Unix(0, e.TimeNano) }

func eventOf(e sealane.Event) Event {
	return Event{
		Type: e.Type, Action: e.Action, Actor: Actor{ID: e.ID, Attributes: notNil(e.Attrs)}, Scope: "local",
		Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
}
