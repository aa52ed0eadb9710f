package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// The table of the command line's documentation, both ways.
func TestKindsOverTheWire(t *testing.T) {
	for _, test := range []struct {
		err    error
		kind   string
		status int
		is     func(error) bool
	}{
		{errdefs.ErrInvalidArgument, "InvalidArgument", http.StatusBadRequest, errdefs.IsInvalidArgument},
		{errdefs.ErrOutOfRange, "OutOfRange", http.StatusBadRequest, errdefs.IsOutOfRange},
		{errdefs.ErrPermissionDenied, "PermissionDenied", http.StatusForbidden, errdefs.IsPermissionDenied},
		{errdefs.ErrFailedPrecondition, "FailedPrecondition", http.StatusForbidden, errdefs.IsFailedPrecondition},
		{errdefs.ErrNotFound, "NotFound", http.StatusNotFound, errdefs.IsNotFound},
		{errdefs.ErrAlreadyExists, "AlreadyExists", http.StatusConflict, errdefs.IsAlreadyExists},
		{errdefs.ErrConflict, "Conflict", http.StatusConflict, errdefs.IsConflict},
		{errdefs.ErrAborted, "Aborted", http.StatusConflict, errdefs.IsAborted},
		{errdefs.ErrInternal, "Internal", http.StatusInternalServerError, errdefs.IsInternal},
		{errors.New("odd"), "Internal", http.StatusInternalServerError, errdefs.IsInternal},
		{errdefs.ErrDataLoss, "Internal", http.StatusInternalServerError, errdefs.IsInternal},
		{errdefs.ErrNotImplemented, "NotImplemented", http.StatusNotImplemented, errdefs.IsNotImplemented},
		{errdefs.ErrResourceExhausted, "ResourceExhausted", http.StatusServiceUnavailable, errdefs.IsResourceExhausted},
		{errdefs.ErrUnavailable, "Unavailable", http.StatusServiceUnavailable, errdefs.IsUnavailable},
		{context.DeadlineExceeded, "Unavailable", http.StatusServiceUnavailable, errdefs.IsUnavailable},
		{context.Canceled, "Unavailable", http.StatusServiceUnavailable, errdefs.IsUnavailable},
	} {
		wrapped := errors.Join(fmt.Errorf("create network blue: %w: for a reason", test.err), errors.New("and another"))
		e, status := wire(wrapped)
		if e.Kind != test.kind || status != test.status {
			t.Errorf("%v goes out as %s, %d; want %s, %d", test.err, e.Kind, status, test.kind, test.status)
		}
		if strings.Contains(e.Message, "\n") || !strings.Contains(e.Message, "for a reason; and another") {
			t.Errorf("message %q", e.Message)
		}
		body := fmt.Sprintf(`{"message":%q,"kind":%q}`, e.Message, e.Kind)
		if back := unwire(status, []byte(body)); !test.is(back) || back.Error() != e.Message {
			t.Errorf("%s comes back as %v", test.kind, back)
		}
	}
}

// The outermost kind is what the layer that knew most chose.
func TestKindOfNested(t *testing.T) {
	inner := fmt.Errorf("port: %w", errdefs.ErrAlreadyExists)
	if k := kindOf(fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, inner)); k.name != "FailedPrecondition" {
		t.Error(k.name)
	}
}

// A reply of something that is no daemon of ours still has a kind.
func TestKindByStatus(t *testing.T) {
	for status, want := range map[int]string{400: "InvalidArgument", 403: "PermissionDenied", 404: "NotFound", 409: "AlreadyExists",
		500: "Internal", 501: "NotImplemented", 502: "Internal", 503: "Unavailable"} {
		err := unwire(status, []byte("<html>sorry"))
		if kindOf(err).name != want || err.Error() != "<html>sorry" {
			t.Errorf("%d: %v (%s)", status, err, kindOf(err).name)
		}
	}
	if err := unwire(404, nil); err.Error() != "Not Found" {
		t.Error(err)
	}
}
