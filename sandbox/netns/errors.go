package netns

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// refused is an error that names its step.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// refusal is what the caller is told of a step that failed. An error that names an earlier step keeps its text.
func refusal(s sandbox.Step, err error) error {
	if _, named := err.(refused); named {
		return err
	}
	return refused{explain(s, err)}
}

func explain(s sandbox.Step, err error) error {
	what := describe(s)
	if errors.Is(err, unix.EXFULL) && s.Link.Master != "" {
		return fmt.Errorf("%s: %w: bridge %s is full (1,023 ports)", what, errdefs.ErrResourceExhausted, s.Link.Master)
	}
	if errors.Is(err, unix.EOPNOTSUPP) && s.Link.Master != "" {
		return fmt.Errorf("%s: %w: %s is no bridge, or one that does not take it: %w", what, errdefs.ErrInvalidArgument, s.Link.Master, err)
	}
	if errors.Is(err, unix.EEXIST) && s.Link.Veth != nil {
		return fmt.Errorf("%s: %w: the name, or %s at its other end, is taken", what, errdefs.ErrAlreadyExists, s.Link.Veth.Peer)
	}
	return fmt.Errorf("%s: %w", what, kind(err))
}

// describe names a step and its object.
func describe(s sandbox.Step) string {
	switch s.Op {
	case sandbox.AddLink:
		return "add link " + s.Link.Name
	case sandbox.SetLink:
		return "change link " + s.Link.Name
	case sandbox.DelLink:
		return "delete link " + s.Link.Name
	case sandbox.AddAddr:
		return fmt.Sprintf("add address %s to %s", s.Addr, s.Link.Name)
	case sandbox.DelAddr:
		return fmt.Sprintf("delete address %s of %s", s.Addr, s.Link.Name)
	}
	return s.String()
}

// kind gives an error of the kernel the kind that callers ask for. One that has a kind keeps it.
func kind(err error) error {
	k := kindOf(err)
	if k == nil || errors.Is(err, k) {
		return err
	}
	return fmt.Errorf("%w: %w", k, err)
}

func kindOf(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return nil
	}
	switch errno {
	case unix.EEXIST:
		return errdefs.ErrAlreadyExists
	case unix.ENODEV, unix.ENOENT, unix.ESRCH, unix.ENXIO:
		return errdefs.ErrNotFound
	case unix.EXFULL, unix.ENOSPC, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.EDQUOT:
		return errdefs.ErrResourceExhausted
	case unix.EPERM, unix.EACCES:
		return errdefs.ErrPermissionDenied
	case unix.EINVAL, unix.ERANGE, unix.EADDRNOTAVAIL:
		return errdefs.ErrInvalidArgument
	case unix.EBUSY, unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EROFS:
		return errdefs.ErrFailedPrecondition
	case unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT:
		return errdefs.ErrNotImplemented
	case unix.EAGAIN, unix.EINTR:
		return errdefs.ErrUnavailable
	}
	return nil
}
