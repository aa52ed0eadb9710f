package sealane

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// Where records are. In the root store: networks and their names, and what drivers that act may hold. In the run store all else.
// A membership says that an endpoint may have something in a sandbox: it is written with the first Held and goes with the last.
func networkTable() datastore.Table[netdriver.Network] {
	return datastore.Table[netdriver.Network]{Dir: "net"}
}

func sandboxTable() datastore.Table[sandbox.Info] { return datastore.Table[sandbox.Info]{Dir: "sb"} }

func endpointTable(n endpoint.NetworkID) datastore.Table[endpoint.Info] {
	return datastore.Table[endpoint.Info]{Dir: datastore.Key("ep", string(n))}
}

// heldTable says what the kernel may contain for an owner.
func heldTable() datastore.Table[netdriver.Held] { return datastore.Table[netdriver.Held]{Dir: "held"} }

// drivenTable says what a driver that acts may hold for an owner, and what it answered: it outlives our own boot, as the driver may.
func drivenTable() datastore.Table[netdriver.Held] {
	return datastore.Table[netdriver.Held]{Dir: "driven"}
}

// portsTable says what a sandbox publishes whichever of its endpoints is its gateway.
func portsTable() datastore.Table[endpoint.Ports] {
	return datastore.Table[endpoint.Ports]{Dir: "ports"}
}

func memberTable(s sandbox.ID) datastore.Table[endpoint.NetworkID] {
	return datastore.Table[endpoint.NetworkID]{Dir: datastore.Key("in", string(s))}
}

// index maps names to ids within one directory of the store that holds the records.
type index string

const (
	networkNames index = "name/net"
	sandboxNames index = "name/sb"
)

func endpointNames(n endpoint.NetworkID) index {
	return index("name/ep/" + datastore.Key(string(n)))
}

// holders are the endpoints of a network that are found by their addresses.
func holders(n endpoint.NetworkID) index { return index("claim/" + datastore.Key(string(n))) }

func (x index) key(name string) string { return string(x) + "/" + datastore.Key(name) }

// get returns the id that name points to; "" when nobody has it.
func (x index) get(tx datastore.Tx, name string) (string, error) {
	id, err := tx.Get(x.key(name))
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	return string(id), err
}

// claim points name to id; AlreadyExists names the other holder. What is ours already is not taken: the transaction may be a repeat.
func (x index) claim(tx datastore.Tx, name, id string) error {
	holder, err := x.get(tx, name)
	if err != nil {
		return err
	}
	if holder != "" && holder != id {
		return fmt.Errorf("%w: the name is taken by %s", errdefs.ErrAlreadyExists, holder)
	}
	return tx.Put(x.key(name), []byte(id))
}

// free gives a name up if it is id's.
func (x index) free(tx datastore.Tx, name, id string) error {
	holder, err := x.get(tx, name)
	if err != nil || holder != id {
		return err
	}
	return tx.Delete(x.key(name))
}

// Owners as links, elements and Held know them.
func networkOwner(id endpoint.NetworkID) string { return "net/" + string(id) }
func endpointOwner(id endpoint.ID) string       { return "ep/" + string(id) }
func sandboxOwner(id sandbox.ID) string         { return "sb/" + string(id) }

// newID makes 64 hex digits.
func newID() string { return randomHex(32) }

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// shortID is how an id is shown, and what names links after it.
func shortID(id string) string { return id[:min(12, len(id))] }

// checkID accepts "" and what newID makes.
func checkID(id string) error {
	if id == "" {
		return nil
	}
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 32 || strings.ToLower(id) != id {
		return fmt.Errorf("%w: an id is 64 lower-case hex digits, not %q", errdefs.ErrInvalidArgument, id)
	}
	return nil
}

// checkName accepts what may name a network, a sandbox or an endpoint: [a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}.
func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%w: a name is a letter or digit and up to 63 more of letters, digits, '_', '.' and '-', not %.80q",
			errdefs.ErrInvalidArgument, name)
	}
	return nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// maybe turns NotFound into absence.
func maybe[T any](v T, err error) (T, bool, error) {
	if errdefs.IsNotFound(err) {
		var none T
		return none, false, nil
	}
	return v, err == nil, err
}

// resolve finds the id that a user means: a whole id, then a name, then the unique beginning of an id.
func resolve[T any](tx datastore.Tx, t datastore.Table[T], x index, ref string) (string, error) {
	if ref == "" {
		return "", fmt.Errorf("%w: no name or id given", errdefs.ErrInvalidArgument)
	}
	if _, found, err := maybe(t.Get(tx, ref)); err != nil || found {
		return ref, err
	}
	if id, err := x.get(tx, ref); err != nil || id != "" {
		return id, err
	}
	const whole = 64
	if len(ref) >= whole { // nothing longer begins with it, and front ends ask whether they asked before
		return "", errdefs.ErrNotFound
	}
	var matches []string
	for id := range tx.List(t.Dir) {
		if strings.HasPrefix(id, ref) {
			matches = append(matches, id)
		}
	}
	switch len(matches) {
	case 0:
		return "", errdefs.ErrNotFound
	case 1:
		return matches[0], nil
	}
	return "", fmt.Errorf("%w: %d ids begin with %s; give more digits", errdefs.ErrInvalidArgument, len(matches), ref)
}

// view reads a value from a store at one moment.
func view[T any](ctx context.Context, s datastore.Store, fn func(datastore.Tx) (T, error)) (T, error) {
	var v T
	err := s.View(ctx, func(tx datastore.Tx) (err error) {
		v, err = fn(tx)
		return err
	})
	return v, err
}

// surely is an Update whose outcome matters to more than the store, such as whether addresses are free. Where it is unknown fn runs again: it
// accepts that it has succeeded before.
func surely(ctx context.Context, s datastore.Store, fn func(datastore.Tx) error) error {
	err := s.Update(ctx, fn)
	if datastore.IsUncertain(err) {
		err = s.Update(ctx, fn)
	}
	return err
}

// records yields all records of a table as they were at one moment.
func records[T any](ctx context.Context, s datastore.Store, t datastore.Table[T]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		type record struct {
			value T
			err   error
		}
		all, err := view(ctx, s, func(tx datastore.Tx) (all []record, err error) {
			for v, err := range t.All(tx) {
				all = append(all, record{v, err})
			}
			return all, nil
		})
		if err != nil {
			var none T
			yield(none, err)
			return
		}
		for _, r := range all {
			if !yield(r.value, r.err) {
				return
			}
		}
	}
}

// equal says that two values are the same record: nil and empty are told apart by nothing that is stored.
func equal(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	x, errA := json.Marshal(a, json.Deterministic(true))
	y, errB := json.Marshal(b, json.Deterministic(true))
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

// withoutEntries is a plan as Held keeps it: peers come by the thousand and are computed again.
func withoutEntries(p netdriver.Plan) netdriver.Plan {
	p.Shares = slices.Clone(p.Shares)
	for i, s := range p.Shares {
		links := slices.Clone(s.Config.Links)
		for j := range links {
			links[j].Entries = nil
		}
		p.Shares[i].Config.Links = links
	}
	return p
}

// together is errors.Join on one line, as messages are.
func together(errs ...error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return several(errs)
}

// several are mistakes of one kind that are told at once.
type several []error

func (s several) Error() string {
	texts := make([]string, len(s))
	for i, err := range s {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (s several) Unwrap() []error { return s }
