package nlmsg_test

import (
	"testing"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nstest"
	"golang.org/x/sys/unix"
)

func TestBatchReportsEachRefusal(t *testing.T) {
	h := nstest.New(t, "h")
	s, err := nlmsg.Open(h.Path(), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var b nlmsg.Batch
	for _, name := range []string{"lo", "none", "lo"} {
		b.Begin(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		b.Raw(make([]byte, unix.SizeofIfInfomsg)...)
		b.String(unix.IFLA_IFNAME, name)
		b.End()
	}
	err = s.Do(&b, nil)
	joined, _ := err.(interface{ Unwrap() []error })
	if joined == nil || len(joined.Unwrap()) != 1 {
		t.Fatalf("got %v, want one refusal", err)
	}
	if e, ok := joined.Unwrap()[0].(*nlmsg.Error); !ok || e.Index != 1 || e.Errno != unix.ENODEV {
		t.Errorf("got %#v, want message 1 refused with ENODEV", joined.Unwrap()[0])
	}
}
