package netns_test

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

func TestAttachAndDetach(t *testing.T) {
	for _, ready := range []int{0, 2} {
		r := newRoom(t, ready)
		r.apply(r.host, "net/1", bridge())
		for n := 2; n < 6; n++ {
			sb, name := r.create()
			outer, inner := endpoint(n, sb.Key())
			r.change(r.host, "ep/1", sandbox.Config{}, outer)
			r.change(sb, "sb/1", sandbox.Config{}, inner)
			r.mustBe(r.host, outer.Links[0].Owner, outer)
			r.mustBe(sb, "", inner)
			for _, p := range inner.Links[0].Addrs {
				r.h.Run("ping", "-c1", "-W10", p.Addr().String())
			}
			r.change(r.host, "ep/1", outer, sandbox.Config{})
			r.remove(name)
			if _, err := os.Lstat(sb.Key()); !os.IsNotExist(err) {
				t.Errorf("%s after Remove: %v", sb.Key(), err)
			}
		}
		r.drain()
		if left := r.h.Run("ip", "-o", "link", "show", "type", "veth"); left != "" {
			t.Errorf("links left after Drain:\n%s", left)
		}
	}
}

// A port on the bridge hears nothing when another one is attached: at a thousand ports that would be a thousand frames for each.
func TestAttachIsSilent(t *testing.T) {
	r := newRoom(t, 0)
	r.apply(r.host, "net/1", bridge())
	listener, _ := r.create()
	outer, inner := endpoint(2, listener.Key())
	r.apply(r.host, "ep/2", outer)
	r.apply(listener, "sb/2", inner)
	heard := listenTo(r, listener)
	var told []string
	for n := 3; n < 8; n++ {
		sb, _ := r.create()
		outer, inner := endpoint(n, sb.Key())
		r.apply(r.host, "ep/n", outer)
		r.apply(sb, "sb/n", inner)
		told = append(told, inner.Links[0].Addrs[1].Addr().String())
	}
	// The first report would be due within a jiffy, the repeated one and solicitations within a second; an answered ping comes after them.
	for _, a := range told {
		r.h.Run("ping", "-c2", "-i1", "-W10", a)
	}
	for _, frame := range heard() {
		if src := net.HardwareAddr(frame[6:12]); src.String() != bridge().Links[0].MAC.String() { // which reports for itself when it comes up
			t.Errorf("the listener received from %s: % x", src, frame)
		}
	}
}

// listenTo gives what eth0 of a namespace has received since.
func listenTo(r *room, ns sandbox.Namespace) func() [][]byte {
	r.Helper()
	var fd int
	err := nsthread.Do(ns.Key(), func() (err error) {
		everything := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(everything))
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	return func() (frames [][]byte) {
		defer unix.Close(fd)
		for {
			frame := make([]byte, 2048)
			n, from, err := unix.Recvfrom(fd, frame, 0)
			if err != nil {
				return frames
			}
			if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && n > 12 {
				frames = append(frames, frame[:n])
			}
		}
	}
}

func TestCreateIsIdempotent(t *testing.T) {
	ctx := context.Background()
	r := newRoom(t, 0)
	first, name := r.create()
	again := must(r.p.Create(ctx, name))(t, closed[sandbox.Namespace])
	if first.Cookie() != again.Cookie() || first.Key() != again.Key() || first.Cookie() == 0 || first.Cookie() == r.host.Cookie() {
		t.Errorf("created %d at %s, then %d at %s; the host is %d", first.Cookie(), first.Key(), again.Cookie(), again.Key(), r.host.Cookie())
	}
	opened := r.open(sandbox.Origin{Path: first.Key()})
	if opened.Cookie() != first.Cookie() {
		t.Errorf("opened %d, want %d", opened.Cookie(), first.Cookie())
	}
	r.remove(name)
	r.remove(name)
	if _, err := again.Apply(ctx, "sb/1", sandbox.Config{}, sandbox.Config{Sysctls: []sandbox.Sysctl{{Key: "core/somaxconn", Value: "99"}}}); err == nil {
		t.Error("applied in a namespace that was removed")
	}
}

// The file of a namespace whose maker died in the middle leads nowhere, or to something that is no namespace.
func TestCreateMendsWhatACrashLeft(t *testing.T) {
	ctx := context.Background()
	h := nstest.New(t, "h")
	p := provider(t, h, 0)
	ns := must(p.Create(ctx, "ab"))(t, closed[sandbox.Namespace])
	dir := strings.TrimSuffix(ns.Key(), "/netns/ab")
	for name, target := range map[string]string{"ac": "../mounts/none", "ad": "../mounts/plain"} {
		if err := os.Symlink(target, dir+"/netns/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/mounts/plain", nil, 0o444); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ac", "ad"} {
		ns := must(p.Create(ctx, name))(t, closed[sandbox.Namespace])
		if _, err := ns.Observe(ctx); err != nil {
			t.Error(err)
		}
	}
	if got, err := p.List(ctx); err != nil || len(got) != 3 {
		t.Errorf("listed %v, %v", got, err)
	}
	for _, name := range []string{"ab", "ac", "ad"} {
		if err := p.Remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if err := p.Drain(ctx); err != nil {
		t.Error(err)
	}
}
