package sandbox_test

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

func TestCheckLinkName(t *testing.T) {
	for _, good := range []string{"eth0", "a", "sl-0123456789ab", "eth0.100", "veth_1", "br@x", "@"} {
		if err := sandbox.CheckLinkName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "sixteen-bytes-ab", ".", "..", "all", "default", "lo", "a/b", "a:b", "a b", "a\n", "a\x00", "å", "eth%d"} {
		if err := sandbox.CheckLinkName(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
