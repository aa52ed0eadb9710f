package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// kinds are the names under which kinds of errors cross the wire, in the order in which they are looked for.
func kinds() []struct {
	name string
	kind error
} {
	return []struct {
		name string
		kind error
	}{
		{"InvalidArgument", errdefs.ErrInvalidArgument}, {"OutOfRange", errdefs.ErrOutOfRange}, {"NotFound", errdefs.ErrNotFound},
		{"AlreadyExists", errdefs.ErrAlreadyExists}, {"Conflict", errdefs.ErrConflict}, {"PermissionDenied", errdefs.ErrPermissionDenied},
		{"FailedPrecondition", errdefs.ErrFailedPrecondition}, {"ResourceExhausted", errdefs.ErrResourceExhausted},
		{"NotImplemented", errdefs.ErrNotImplemented}, {"Unavailable", errdefs.ErrUnavailable}, {"Unavailable", context.DeadlineExceeded},
		{"Unavailable", context.Canceled}, {"Aborted", errdefs.ErrAborted},
	}
}

// kindOf names the kind of an error; "" one without.
func kindOf(err error) string {
	for _, k := range kinds() {
		if errors.Is(err, k.kind) {
			return k.name
		}
	}
	return ""
}

// refusal is an error that a plugin answered. Without a kind, as Docker's plugins answer, it is Unknown.
type refusal struct {
	text string
	kind error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.kind }

// refused reads the error in a reply; nil when there is none. body is the reply's beginning, for what is no JSON.
func refused(status int, a answer, body []byte) error {
	const longest = 1024
	text := a.Err
	if text == "" {
		text = a.Error
	}
	if text == "" && status == http.StatusOK {
		return nil
	}
	if text == "" {
		text = fmt.Sprintf("status %d: %.200q", status, body)
	}
	r := &refusal{text: text[:min(len(text), longest)], kind: errdefs.ErrUnknown}
	if a.Sealane != nil {
		for _, k := range kinds() {
			if k.name == a.Sealane.Kind {
				r.kind = k.kind
				break
			}
		}
	}
	return r
}

// badReply is what is said of an answer that cannot be: the plugin is not what it says it is.
func badReply(format string, args ...any) error {
	return fmt.Errorf("reply refused: "+format+": %w", append(args, errdefs.ErrInternal)...)
}
