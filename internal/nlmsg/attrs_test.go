package nlmsg_test

import (
	"fmt"
	"testing"

	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

func TestAttrsReadsWhatBatchWrote(t *testing.T) {
	var b nlmsg.Batch
	b.Begin(1, 0)
	b.String(1, "one")
	b.Nest(2 | unix.NLA_F_NESTED)
	b.Uint8(3, 7)
	b.Uint16(4, 8)
	b.EndNest()
	b.End()
	p := b.Bytes()[unix.SizeofNlMsghdr:]
	var got string
	for typ, v := range nlmsg.Attrs(p) {
		got += fmt.Sprintf("%d:%d ", typ, len(v))
	}
	if want := "1:4 2:16 "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if v := nlmsg.Attr(nlmsg.Attr(p, 2), 3); len(v) != 1 || v[0] != 7 {
		t.Errorf("nested: got %v", v)
	}
	if nlmsg.Attr(p, 9) != nil {
		t.Error("found what is not there")
	}
}

func FuzzAttrs(f *testing.F) {
	f.Add([]byte{4, 0, 1, 0, 3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		n := 0
		for _, v := range nlmsg.Attrs(p) {
			n += len(v) + unix.SizeofRtAttr
		}
		if n > len(p) {
			t.Errorf("%d bytes of attributes in %d", n, len(p))
		}
	})
}
