package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Filters choose from a list: values of one key are alternatives, all keys must hold. Nil chooses everything.
type Filters map[string][]string

// criterion is what one value of a key asks of a T. It refuses a value that nobody can mean.
type criterion[T any] func(of T, value string) (bool, error)

// selector knows the keys of one kind of list. A key that ends with "!" wants none of its values.
type selector[T any] map[string]criterion[T]

// check refuses keys that are not known, as InvalidArgument.
func (s selector[T]) check(f Filters) error {
	for _, key := range slices.Sorted(maps.Keys(f)) {
		if s[key] == nil {
			return fmt.Errorf("filter %.80q: %w: there are %s", key, errdefs.ErrInvalidArgument, strings.Join(slices.Sorted(maps.Keys(s)), ", "))
		}
	}
	return nil
}

// match says whether the filters choose v. Every value is looked at, so that a bad one is told whatever the others say.
func (s selector[T]) match(f Filters, v T) (bool, error) {
	chosen := true
	for key, values := range f {
		negated := strings.HasSuffix(key, "!")
		any := len(values) == 0 && !negated
		for _, value := range values {
			ok, err := s[key](v, value)
			if err != nil {
				return false, fmt.Errorf("filter %s=%.80s: %w: %w", key, value, errdefs.ErrInvalidArgument, err)
			}
			any = any || ok
		}
		chosen = chosen && any != negated
	}
	return chosen, nil
}

// choose keeps what the filters choose. Filters are checked even where there is nothing to choose from.
func choose[T any](s selector[T], f Filters, from []T) ([]T, error) {
	if err := s.check(f); err != nil {
		return nil, err
	}
	var none T
	if _, err := s.match(f, none); err != nil {
		return nil, err
	}
	chosen := []T{}
	for _, v := range from {
		ok, err := s.match(f, v)
		if err != nil {
			return nil, err
		}
		if ok {
			chosen = append(chosen, v)
		}
	}
	return chosen, nil
}

// part is a criterion that wants a piece of a text.
func part[T any](of func(T) string) criterion[T] {
	return func(v T, value string) (bool, error) { return strings.Contains(of(v), value), nil }
}

// exact is a criterion that wants a text.
func exact[T any](of func(T) string) criterion[T] {
	return func(v T, value string) (bool, error) { return of(v) == value, nil }
}

// labelled is a criterion that wants a label: key, or key=value.
func labelled[T any](of func(T) map[string]string) criterion[T] {
	return func(v T, value string) (bool, error) {
		key, want, valued := strings.Cut(value, "=")
		have, found := of(v)[key]
		return found && (!valued || have == want), nil
	}
}

// before is a criterion that wants something older than a time: RFC 3339, seconds since 1970, or how long ago as in 24h.
func before[T any](of func(T) time.Time) criterion[T] {
	return func(v T, value string) (bool, error) {
		until, err := parseTime(value, time.Now())
		return err == nil && of(v).Before(until), err
	}
}

func parseTime(s string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(s); err == nil {
		return now.Add(-ago), nil
	}
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("want a time as 2006-01-02T15:04:05Z, in seconds since 1970, or a duration as 24h")
	}
	return t, nil
}

func networkSelector() selector[Network] {
	return selector[Network]{
		"id":     part(func(n Network) string { return n.ID }),
		"name":   part(func(n Network) string { return n.Name }),
		"driver": exact(func(n Network) string { return n.Driver }),
		"scope":  exact(func(n Network) string { return n.Scope }),
		"state":  exact(func(n Network) string { return n.State }),
		"label":  labelled(func(n Network) map[string]string { return n.Labels }),
		"type":   ofType,
		"dangling": func(n Network, value string) (bool, error) {
			want, err := strconv.ParseBool(value)
			return want == (len(n.Containers) == 0 && !isPredefined(n.Name)), err
		},
	}
}

func ofType(n Network, value string) (bool, error) {
	switch value {
	case "builtin":
		return isPredefined(n.Name), nil
	case "custom":
		return !isPredefined(n.Name), nil
	}
	return false, fmt.Errorf("want builtin or custom")
}

func pruneSelector() selector[Network] {
	label := labelled(func(n Network) map[string]string { return n.Labels })
	return selector[Network]{"until": before(func(n Network) time.Time { return n.Created }), "label": label, "label!": label}
}

func sandboxSelector() selector[Sandbox] {
	return selector[Sandbox]{
		"id":    part(func(s Sandbox) string { return s.ID }),
		"name":  part(func(s Sandbox) string { return s.Name }),
		"state": exact(func(s Sandbox) string { return s.State }),
		"label": labelled(func(s Sandbox) map[string]string { return s.Labels }),
		"network": func(s Sandbox, value string) (bool, error) {
			for name, a := range s.Networks {
				if name == value || a.NetworkID == value {
					return true, nil
				}
			}
			return false, nil
		},
	}
}

func endpointSelector() selector[Endpoint] {
	return selector[Endpoint]{
		"id":      part(func(e Endpoint) string { return e.ID }),
		"name":    part(func(e Endpoint) string { return e.Name }),
		"network": exact(func(e Endpoint) string { return e.NetworkID }),
		"sandbox": exact(func(e Endpoint) string { return e.SandboxID }),
		"label":   labelled(func(e Endpoint) map[string]string { return e.Labels }),
	}
}

func hostSelector() selector[Host] {
	return selector[Host]{
		"id":   part(func(h Host) string { return h.ID }),
		"name": part(func(h Host) string { return h.Name }),
	}
}

func eventSelector() selector[Event] {
	return selector[Event]{
		"type":      exact(func(e Event) string { return e.Type }),
		"event":     exact(func(e Event) string { return e.Action }),
		"network":   about("network"),
		"sandbox":   about("sandbox"),
		"container": about("sandbox"),
		"endpoint":  about("endpoint"),
	}
}

// about is a criterion that wants an event of one thing, by name, id or beginning of the id, or one that names it.
func about(typ string) criterion[Event] {
	return func(e Event, value string) (bool, error) {
		named := e.Actor.Attributes[typ]
		if typ == "sandbox" {
			named = e.Actor.Attributes["container"]
		}
		if e.Type != typ {
			return named == value || len(value) >= 4 && strings.HasPrefix(named, value), nil
		}
		return e.Actor.Attributes["name"] == value || strings.HasPrefix(e.Actor.ID, value), nil
	}
}

// learn adds the id of what is new under a name that is filtered by: what happens to it is told by id.
func (f Filters) learn(e Event) {
	for _, key := range []string{"network", "sandbox", "container"} {
		isIts := e.Type == key || key == "container" && e.Type == "sandbox"
		if isIts && e.Action == "create" && slices.Contains(f[key], e.Actor.Attributes["name"]) {
			f[key] = append(f[key], e.Actor.ID)
		}
	}
}

// query is filters as they stand in a URL; "" none.
func (f Filters) query() string {
	if len(f) == 0 {
		return ""
	}
	text, _ := json.Marshal(f) // a map of strings
	return string(text)
}

func parseFilters(query string) (Filters, error) {
	if query == "" {
		return nil, nil
	}
	var f Filters
	if err := json.Unmarshal([]byte(query), &f); err != nil {
		return nil, fmt.Errorf("filters: %w: want a JSON object of lists of strings: %w", errdefs.ErrInvalidArgument, err)
	}
	return f, nil
}
