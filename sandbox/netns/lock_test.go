package netns_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox/netns"
)

func TestOneProviderOfAnInstanceInAHost(t *testing.T) {
	h, elsewhere := nstest.New(t, "h"), nstest.New(t, "elsewhere")
	nstest.MustNotLeak(t)
	open := func(h *nstest.Host, instance string) (*netns.Provider, error) {
		return netns.New(netns.Options{Host: h.Path(), Run: runDir(t), Instance: instance})
	}
	p := must(open(h, "one"))(t)
	for range 3 { // a refusal closes nothing that is somebody else's
		_, err := open(h, "one")
		if !errdefs.IsFailedPrecondition(err) || !strings.HasSuffix(err.Error(), fmt.Sprintf("instance one is in use in this network namespace by process %d", os.Getpid())) {
			t.Errorf("a second one: %v", err)
		}
	}
	must(open(h, "two"))(t, closed[*netns.Provider])
	must(open(elsewhere, "one"))(t, closed[*netns.Provider])
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	must(open(h, "one"))(t, closed[*netns.Provider])
}
