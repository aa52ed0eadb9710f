package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
)

// Error is a failure as it goes over the wire. As an error it unwraps to the errdefs kind that it names, so that errdefs.IsNotFound
// and its like hold on both sides.
type Error struct {
	Message string `json:"message"`
	Kind    string `json:"kind"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap is the kind; nil when it is not one of ours.
func (e *Error) Unwrap() error {
	for _, k := range kinds() {
		if k.name == e.Kind {
			return k.err
		}
	}
	return nil
}

// kind is one row of the table that both sides read.
type kind struct {
	name   string
	status int
	err    error
}

// kinds are in the order in which a status without a kind is read: the first of a status is what it means then.
func kinds() []kind {
	return []kind{
		{"InvalidArgument", http.StatusBadRequest, errdefs.ErrInvalidArgument},
		{"OutOfRange", http.StatusBadRequest, errdefs.ErrOutOfRange},
		{"PermissionDenied", http.StatusForbidden, errdefs.ErrPermissionDenied},
		{"FailedPrecondition", http.StatusForbidden, errdefs.ErrFailedPrecondition},
		{"NotFound", http.StatusNotFound, errdefs.ErrNotFound},
		{"AlreadyExists", http.StatusConflict, errdefs.ErrAlreadyExists},
		{"Conflict", http.StatusConflict, errdefs.ErrConflict},
		{"Aborted", http.StatusConflict, errdefs.ErrAborted},
		{"Internal", http.StatusInternalServerError, errdefs.ErrInternal},
		{"NotImplemented", http.StatusNotImplemented, errdefs.ErrNotImplemented},
		{"Unavailable", http.StatusServiceUnavailable, errdefs.ErrUnavailable},
		{"ResourceExhausted", http.StatusServiceUnavailable, errdefs.ErrResourceExhausted},
	}
}

// kindOf is the kind of an error: the outermost one in it. A context that is over is Unavailable, what has no kind of the table Internal.
func kindOf(err error) kind {
	found := errdefs.Resolve(err)
	if errors.Is(found, context.Canceled) || errors.Is(found, context.DeadlineExceeded) {
		found = errdefs.ErrUnavailable
	}
	internal := kind{}
	for _, k := range kinds() {
		if k.err == found {
			return k
		}
		if k.err == errdefs.ErrInternal {
			internal = k
		}
	}
	return internal
}

// wire makes an error ready to be sent, in one line, and says with which status.
func wire(err error) (*Error, int) {
	k := kindOf(err)
	return &Error{Message: strings.ReplaceAll(err.Error(), "\n", "; "), Kind: k.name}, k.status
}

// unwire reads an error from a reply: its body, or the status where somebody else answered.
func unwire(status int, body []byte) error {
	var e Error
	if json.Unmarshal(body, &e) == nil && e.Unwrap() != nil {
		return &e
	}
	e = Error{Kind: "Internal"}
	for _, k := range kinds() {
		if k.status == status {
			e.Kind = k.name
			break
		}
	}
	const shown = 200
	e.Message = strings.TrimSpace(string(body[:min(shown, len(body))]))
	if e.Message == "" {
		e.Message = http.StatusText(status)
	}
	return &e
}
