package dns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// engine waits for the sockets of all sandboxes. At one it looks at what has come, answers and takes it out, at most batch questions with a
// system call each before others have their turn. What it answers stays in the socket until it is answered, so that who kills the
// process in between leaves it to the next one. Whose socket overflows is left alone for a while, so that others do not wait behind
// questions that are too many to be answered anyway.
type engine struct {
	r       *Resolver
	epoll   int
	wake    int // an eventfd that ends the thread
	done    chan struct{}
	sockets map[int32]*box // by descriptor; guarded by the Resolver's lock
	resting []rest         // of the thread alone
	between func()         // a test's: what may happen between a look at a batch, its answers, and taking it

	in, out [batch]datagram
	heads   [2][batch]header
	taken   [batch]header // without room: what is taken was looked at
	vectors [2][batch]unix.Iovec
	from    [batch]unix.RawSockaddrAny
	asked   [batch]control
}

const (
	batch  = 16
	few    = 4 // of one whose socket overflows: what others wait for then is less than what their own question takes
	events = 64
	pause  = 2 * time.Millisecond // of a socket that is left alone: one that overflows is answered 2,000 questions a second
)

// rest is a socket that is not listened to until some time.
type rest struct {
	fd    int32
	box   *box
	until time.Time
}

// control says to which address a datagram came, and from which its answer goes.
type control struct {
	unix.Cmsghdr
	info [24]byte // struct in_pktinfo or in6_pktinfo
}

// anyLink makes it say nothing of the link: the answer goes where the routes lead.
func (c *control) anyLink() {
	if c.Level == unix.SOL_IPV6 {
		clear(c.info[16:20]) // ipv6(7): after the address
	} else {
		clear(c.info[:4]) // ip(7): before it
	}
}

// datagram is the room for one; answers of more than udpMax bytes go by TCP.
type datagram [udpMax]byte

// header is struct mmsghdr.
type header struct {
	unix.Msghdr
	n uint32
}

func newEngine(r *Resolver) (*engine, error) {
	e := &engine{r: r, done: make(chan struct{}), sockets: map[int32]*box{}}
	var err error
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if e.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = e.listen(e.wake)
	}
	if err != nil {
		return nil, errors.Join(err, closeAll([]int{e.epoll, e.wake}))
	}
	for i := range batch {
		for way, p := range []*datagram{&e.in[i], &e.out[i]} {
			e.vectors[way][i].Base = &p[0]
			h := &e.heads[way][i]
			h.Iov, h.Iovlen = &e.vectors[way][i], 1
			h.Name = (*byte)(unsafe.Pointer(&e.from[i]))
		}
		e.vectors[0][i].SetLen(udpMax)
	}
	go e.run()
	return e, nil
}

func (e *engine) listen(fd int) error {
	return unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// add begins to answer at the sockets of a box. The lock is held.
func (e *engine) add(b *box) error {
	for _, fd := range []int{b.udp, b.tcp} {
		if err := e.listen(fd); err != nil {
			return fmt.Errorf("wait for a socket: %w", err)
		}
		e.sockets[int32(fd)] = b
	}
	return nil
}

// close ends the answers of a box. The lock is held, so nobody is answering.
func (b *box) close(e *engine) error {
	for _, fd := range []int{b.udp, b.tcp} {
		delete(e.sockets, int32(fd))
		// The Keeper may have the socket too: closing ours would not take it out of the set.
		unix.EpollCtl(e.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	}
	b.conns.closeAll()
	err := closeAll([]int{b.udp, b.tcp})
	b.udp, b.tcp = -1, -1
	return err
}

// close ends the thread.
func (e *engine) close() error {
	_, err := unix.Write(e.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err != nil {
		return os.NewSyscallError("write", err)
	}
	<-e.done
	return closeAll([]int{e.epoll, e.wake})
}

func (e *engine) run() {
	defer close(e.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var ready [events]unix.EpollEvent
	for {
		n, err := unix.EpollWait(e.epoll, ready[:], e.wakeUp())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // the set is ours and so is its descriptor: it cannot fail
		}
		for _, event := range ready[:max(n, 0)] {
			if int(event.Fd) == e.wake {
				return
			}
			e.serve(event.Fd)
		}
	}
}

// serve takes what has come at a socket. One that was closed meanwhile is not known any more, or is another with nothing to read.
func (e *engine) serve(fd int32) {
	e.r.mu.RLock()
	defer e.r.mu.RUnlock()
	b := e.sockets[fd]
	switch {
	case b == nil:
	case int(fd) == b.tcp:
		e.r.accept(b)
	default:
		e.datagrams(b)
	}
}

// datagrams answers one batch; what is left is told again. A question answered twice does no harm, so it is taken last.
func (e *engine) datagrams(b *box) {
	room := batch
	if b.floods {
		room = few
	}
	n := e.look(b, room, unix.MSG_PEEK)
	if b.floods = n == room && b.overflows(); b.floods {
		e.leaveAlone(int32(b.udp), b)
	}
	blind := n == 0
	if blind { // an empty datagram that an earlier process looked at is never shown again, only taken
		n = e.look(b, room, 0)
	}
	e.moment()
	answers := 0
	for i := range n {
		p, name := e.in[i][:min(e.heads[0][i].n, udpMax)], e.heads[0][i].Namelen
		size := e.r.quick(b, p, e.out[answers][:], false)
		if size == 0 {
			if size = e.r.slowly(b, p, e.out[answers][:], e.from[i], name); size == 0 {
				continue
			}
		}
		e.vectors[1][answers].SetLen(size)
		h := &e.heads[1][answers]
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&e.from[i])), name
		h.Control, h.Controllen = e.heads[0][i].Control, e.heads[0][i].Controllen
		e.asked[i].anyLink()
		answers++
	}
	for sent := 0; sent < answers; {
		k := messages(unix.SYS_SENDMMSG, b.udp, e.heads[1][sent:answers], unix.MSG_DONTWAIT)
		sent += max(k, 1) // an answer that cannot be sent is lost, as datagrams may be
	}
	e.moment()
	if !blind {
		e.take(b.udp, n)
	}
}

func (e *engine) moment() {
	if e.between != nil {
		e.between()
	}
}

// overflows says whether the kernel threw away questions at the socket since it was last asked.
func (b *box) overflows() bool {
	const soMeminfo, drops, count = 55, 8, 9 // SO_MEMINFO, SK_MEMINFO_DROPS, SK_MEMINFO_VARS (linux/sock_diag.h)
	var info [count]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(b.udp), unix.SOL_SOCKET, soMeminfo, uintptr(unsafe.Pointer(&info)),
		uintptr(unsafe.Pointer(&size)), 0)
	more := errno == 0 && info[drops] != b.dropped
	b.dropped = info[drops]
	return more
}

// leaveAlone does not listen to a socket for a while.
func (e *engine) leaveAlone(fd int32, b *box) {
	if e.heed(fd, 0) == nil {
		e.resting = append(e.resting, rest{fd, b, time.Now().Add(pause)})
	}
}

// heed listens to a socket again, or no more.
func (e *engine) heed(fd int32, what uint32) error {
	return unix.EpollCtl(e.epoll, unix.EPOLL_CTL_MOD, int(fd), &unix.EpollEvent{Events: what, Fd: fd})
}

// wakeUp listens again to those that have rested, and says in how many milliseconds the next one is due; -1: none rests.
func (e *engine) wakeUp() int {
	for len(e.resting) > 0 {
		first := e.resting[0]
		if left := time.Until(first.until); left > 0 {
			return int(left/time.Millisecond) + 1
		}
		e.resting = e.resting[1:]
		e.r.mu.RLock()
		if e.sockets[first.fd] == first.box {
			e.heed(first.fd, unix.EPOLLIN)
		}
		e.r.mu.RUnlock()
	}
	return -1
}

// look reads room datagrams at most, with MSG_PEEK from where the last look ended. The lengths are those that the datagrams had.
func (e *engine) look(b *box, room, flags int) int {
	for i := range room {
		e.heads[0][i].Namelen = unix.SizeofSockaddrAny
		if b.anywhere {
			e.heads[0][i].Control = (*byte)(unsafe.Pointer(&e.asked[i]))
			e.heads[0][i].SetControllen(int(unsafe.Sizeof(e.asked[i])))
		} else {
			e.heads[0][i].SetControllen(0)
		}
	}
	return messages(unix.SYS_RECVMMSG, b.udp, e.heads[0][:room], unix.MSG_DONTWAIT|unix.MSG_TRUNC|flags)
}

// take takes out the n datagrams that were looked at, which are the first. The kernel keeps where the next look begins as a number of bytes;
// MSG_TRUNC has it go back by all that are taken. If others were taken, because of such an empty one, the next look is from the start.
func (e *engine) take(fd, n int) {
	same := messages(unix.SYS_RECVMMSG, fd, e.taken[:n], unix.MSG_DONTWAIT|unix.MSG_TRUNC) == n
	for i := range n {
		same = same && e.taken[i].n == e.heads[0][i].n
	}
	if !same {
		lookFromStart(fd)
	}
}

// messages is recvmmsg(2) and sendmmsg(2).
func messages(call uintptr, fd int, h []header, flags int) int {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&h[0])), uintptr(len(h)), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// send sends one datagram. It is for who is answered later, which a socket at all addresses is not: listeners ask nobody.
func send(fd int, p []byte, to *unix.RawSockaddrAny, toLen uint32) {
	v := unix.Iovec{Base: &p[0]}
	v.SetLen(len(p))
	h := []header{{Msghdr: unix.Msghdr{Name: (*byte)(unsafe.Pointer(to)), Namelen: toLen, Iov: &v, Iovlen: 1}}}
	messages(unix.SYS_SENDMMSG, fd, h, unix.MSG_DONTWAIT)
	runtime.KeepAlive(p)
}

// slowly answers what quick does not, now by its result or later. The lock is held.
func (r *Resolver) slowly(b *box, p, out []byte, from unix.RawSockaddrAny, fromLen uint32) int {
	m := r.answer(b, p, false, func(answer []byte) {
		r.mu.RLock()
		defer r.mu.RUnlock()
		if b.udp >= 0 {
			send(b.udp, answer, &from, fromLen)
		}
	})
	return copy(out, m)
}
