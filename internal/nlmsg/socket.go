package nlmsg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// Error is the kernel's refusal of one message of a batch.
type Error struct {
	Index int        // of the message in the batch, from 0
	Errno unix.Errno // reachable by errors.Is
	Text  string     // the kernel's own explanation, often ""
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Errno.Error()
	}
	return e.Errno.Error() + ": " + e.Text
}

// Unwrap gives the error number.
func (e *Error) Unwrap() error { return e.Errno }

// Refusals takes apart what Do returned: the refused messages in order, or the failure that left their fate unknown.
func Refusals(err error) ([]*Error, error) {
	if err == nil {
		return nil, nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil, err
	}
	var refused []*Error
	for _, one := range joined.Unwrap() {
		e, ok := one.(*Error)
		if !ok {
			return refused, err
		}
		refused = append(refused, e)
	}
	return refused, nil
}

// Socket is a lasting netlink socket of one namespace. Closing one after a delete can wait for a grace period (8 to 16 ms), so keep it.
// Safe for concurrent use: batches queue.
type Socket struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf []byte
}

// Open makes a socket of a protocol (NETLINK_ROUTE, NETLINK_NETFILTER) in the namespace whose file is path; "" is the caller's own.
func Open(path string, protocol int) (*Socket, error) {
	fd := -1
	err := nsthread.Do(path, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return Use(fd)
}

// Use makes a Socket of a descriptor that was just opened, non-blocking, and is the Socket's from now on.
func Use(fd int) (*Socket, error) {
	s := &Socket{fd: fd}
	if err := s.setup(); err != nil {
		s.Close()
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	return s, nil
}

func (s *Socket) setup() error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, option, 1); err != nil {
			return err
		}
	}
	return nil
}

// SetBuffers raises the send and receive buffers to n bytes, beyond the limit that sysctl sets: big batches need it.
func (s *Socket) SetBuffers(n int) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n); err != nil {
		return fmt.Errorf("netlink send buffer: %w", err)
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n); err != nil {
		return fmt.Errorf("netlink receive buffer: %w", err)
	}
	return nil
}

// FD is the descriptor, to be used before Close only.
func (s *Socket) FD() int { return s.fd }

// Port is the number by which the kernel says whose request made something happen.
func (s *Socket) Port() (uint32, error) {
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return 0, fmt.Errorf("netlink port: %w", err)
	}
	return name.(*unix.SockaddrNetlink).Pid, nil
}

// Close closes the socket.
func (s *Socket) Close() error {
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// Do sends a batch in one system call and reads the answers of the messages that carry NLM_F_ACK, up to the last of them. reply, which
// may be nil, is given what else the kernel says, news included: type and payload, valid during the call. The result joins an *Error for each refused
// message, in order. rtnetlink carries on after a refusal, nfnetlink undoes the whole batch.
func (s *Socket) Do(b *Batch, reply func(typ uint16, payload []byte)) error {
	if b.Len() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.seq + 1
	acks := stamp(b.buf, first)
	s.seq += uint32(b.count)
	if err := s.send(b.buf); err != nil {
		return fmt.Errorf("netlink send: %w", err)
	}
	return s.receive(first, acks, reply)
}

func (s *Socket) send(p []byte) error {
	for {
		_, err := unix.Write(s.fd, p)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// stamp numbers the messages of a batch and counts those that want an acknowledgement.
func stamp(buf []byte, seq uint32) (acks int) {
	for len(buf) >= headerLen {
		n := binary.NativeEndian.Uint32(buf)
		if binary.NativeEndian.Uint16(buf[6:])&unix.NLM_F_ACK != 0 {
			acks++
		}
		binary.NativeEndian.PutUint32(buf[8:], seq)
		seq++
		buf = buf[n:]
	}
	return acks
}

// receive reads until every acknowledgement has come. The kernel answers inside sendmsg, so an empty queue means that no more will.
func (s *Socket) receive(first uint32, acks int, reply func(uint16, []byte)) error {
	var refused []error
	size := ackLen
	if reply != nil {
		size = replyLen
	}
	for acks > 0 {
		p, err := s.read(size)
		if errors.Is(err, unix.EAGAIN) && len(refused) > 0 {
			break // an aborted batch does not acknowledge the rest
		}
		if err != nil {
			return errors.Join(append(refused, fmt.Errorf("netlink receive: %w", err))...)
		}
		for len(p) >= headerLen {
			n := int(binary.NativeEndian.Uint32(p))
			if n < headerLen || n > len(p) {
				return fmt.Errorf("netlink receive: malformed message of %d bytes", n)
			}
			typ, seq, body := binary.NativeEndian.Uint16(p[4:]), binary.NativeEndian.Uint32(p[8:]), p[headerLen:n]
			p = p[min((n+align-1)&^(align-1), len(p)):]
			index := int(int32(seq - first))
			switch {
			case seq == 0 && reply != nil: // news of a group that the socket is in
				reply(typ, body)
			case index < 0: // left over from a call that gave up
			case typ == unix.NLMSG_ERROR:
				if wantsAck(body) {
					acks--
				}
				if e := parseError(body, index); e != nil {
					refused = append(refused, e)
				}
			case typ == unix.NLMSG_DONE:
				acks--
			case reply != nil:
				reply(typ, body)
			}
		}
	}
	return errors.Join(refused...)
}

// What is read at once: an acknowledgement or a refusal with its text, or the longest single answer. The kernel packs dumps into pieces of
// at most 8 KiB for a reader that never asked for more.
const (
	ackLen   = 512
	replyLen = 8 << 10
)

func (s *Socket) read(size int) ([]byte, error) {
	if len(s.buf) < size {
		s.buf = make([]byte, size)
	}
	for {
		n, err := unix.Read(s.fd, s.buf)
		if err == nil {
			return s.buf[:n], nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, err
		}
	}
}

// wantsAck says whether the message that a struct nlmsgerr answers asked for an acknowledgement: a refusal comes unasked too.
func wantsAck(body []byte) bool {
	return len(body) >= 4+headerLen && binary.NativeEndian.Uint16(body[4+6:])&unix.NLM_F_ACK != 0
}

// parseError reads a struct nlmsgerr; nil is an acknowledgement.
func parseError(body []byte, index int) error {
	const cappedLen = 4 + headerLen // the error and the header of what it answers: NETLINK_CAP_ACK leaves out the rest
	if len(body) < 4 {
		return &Error{Index: index, Errno: unix.EPROTO}
	}
	errno := -int32(binary.NativeEndian.Uint32(body))
	if errno == 0 {
		return nil
	}
	e := &Error{Index: index, Errno: unix.Errno(errno)}
	for p := body[min(cappedLen, len(body)):]; len(p) >= unix.SizeofRtAttr; {
		n := int(binary.NativeEndian.Uint16(p))
		if n < unix.SizeofRtAttr || n > len(p) {
			break
		}
		if binary.NativeEndian.Uint16(p[2:]) == unix.NLMSGERR_ATTR_MSG {
			e.Text = unix.ByteSliceToString(p[unix.SizeofRtAttr:n])
		}
		p = p[min((n+align-1)&^(align-1), len(p)):]
	}
	return e
}
