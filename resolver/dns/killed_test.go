package dns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/holder"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// TestKilled kills the resolver's process at the worst moments, again and again: when it has looked at questions and answered none, and when it
// has answered them and not taken them out. Each question is sent once and answered, and in the end none is left. Empty datagrams, which
// the kernel shows only once, do not bring it out of step.
func TestKilled(t *testing.T) {
	const kills, askers = 40, 8
	path := filepath.Join(t.TempDir(), "resolver.sock")
	keeper := held(t, path)
	w := newWorld(t, func(o *dns.Options) { o.Keeper = keeper })
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	ns := w.space()
	w.set(ns, resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}})
	if err := errors.Join(w.r.Close(), keeper.Close()); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	var work sync.WaitGroup
	defer work.Wait()
	stop := make(chan struct{})
	var conns []net.Conn
	for range askers {
		c, err := w.inside["a"].Dial("udp", "127.0.0.11:53")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		work.Go(func() { askOnce(t, c, stop, &asked) })
	}
	for n := range kills {
		v := startVictim(t, path, ns, 1+n%4)
		var status *exec.ExitError
		if err := v.Wait(); !errors.As(err, &status) || status.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
			t.Fatalf("it was to be killed: %v", err)
		}
	}
	last := startVictim(t, path, ns, 0)
	close(stop)
	lost := time.AfterFunc(time.Minute, func() { // nobody kills it, so that all is answered at once
		for _, c := range conns {
			c.Close()
		}
	})
	work.Wait()
	lost.Stop()
	last.end(t)
	again, err := holder.NewProcess(path).Kept()
	if err != nil || len(again["a"]) != 2 {
		t.Fatal(again, err)
	}
	for _, fd := range again["a"] {
		if n, err := unix.Read(fd, make([]byte, 512)); err == nil {
			t.Errorf("%d bytes were left", n)
		}
		unix.Close(fd)
	}
	t.Logf("%d questions over %d kills", asked.Load(), kills)
}

// askOnce sends each question once and waits for its answer, until it is to stop.
func askOnce(t *testing.T, c net.Conn, stop chan struct{}, asked *atomic.Int32) {
	conn := &mdns.Conn{Conn: c}
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		q := question("web", mdns.TypeA)
		q.Id = uint16(n)
		if n%3 == 0 {
			c.Write(nil)
		}
		if err := conn.WriteMsg(q); err != nil {
			t.Error(err)
			return
		}
		for {
			m, err := conn.ReadMsg()
			if err != nil || data(m) != "10.1.0.2" {
				t.Errorf("question %d: %v, %v", n, m, err)
				return
			}
			if m.Id == q.Id { // and not one more answer to an earlier one
				break
			}
		}
		asked.Add(1)
	}
}

// victim is a resolver's process.
type victim struct {
	*exec.Cmd
	stdin io.Closer
}

// startVictim runs this binary as the resolver's process, as victimMain says.
func startVictim(t *testing.T, path string, ns sandbox.Namespace, moment int) *victim {
	t.Helper()
	const patience = time.Minute // a question that was lost is not waited for
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "victim", path, ns.Key(), fmt.Sprint(ns.Cookie()), strconv.Itoa(moment))
	cmd.Stderr = os.Stderr
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Cancel = end.Close
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return &victim{cmd, end}
}

// end ends it in peace.
func (v *victim) end(t *testing.T) {
	t.Helper()
	if err := errors.Join(v.stdin.Close(), v.Wait()); err != nil {
		t.Error(err)
	}
}

// known is a namespace that somebody else made.
type known struct {
	sandbox.Namespace
	key    string
	cookie uint64
}

func (k known) Key() string    { return k.key }
func (k known) Cookie() uint64 { return k.cookie }

// victimMain answers in the namespace of sandbox a with the sockets of a holder. At a moment it kills itself: 1 is before the answers of its first
// batch, 2 after them, 3 before those of its second, and so on. It ends in peace with its input.
func victimMain(path, key, cookie, moment string) error {
	n, err := strconv.ParseUint(cookie, 10, 64)
	if err != nil {
		return err
	}
	moments, err := strconv.Atoi(moment)
	if err != nil {
		return err
	}
	r, err := dns.New(dns.Options{Keeper: holder.NewProcess(path)})
	if err != nil {
		return err
	}
	r.Between(func() {
		if moments--; moments == 0 {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {} // it takes a moment
		}
	})
	ctx := context.Background()
	if err := r.SetZone(ctx, blue, resolver.Change{Name: "blue", Put: []endpoint.Published{published("1", "web", "10.1.0.2/24")}}); err != nil {
		return err
	}
	if _, err := r.Set(ctx, known{key: key, cookie: n}, resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return r.Close()
}
