package null_test

import (
	"flag"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/drivers/null"
	"github.com/sealane/sealane/netdriver/drivertest"
)

var update = flag.Bool("update", false, "write testdata")

func TestDriver(t *testing.T) { drivertest.RunBare(t, *update, "null", null.New) }

func FuzzOptions(f *testing.F) {
	f.Add("com.example.other", "x")
	f.Add("mtu", "1400")
	f.Fuzz(func(t *testing.T, key, value string) {
		o, err := null.ParseOptions(map[string]string{key: value})
		if strings.Contains(key, ".") && (err != nil || len(o.Labels()) > 0) || !strings.Contains(key, ".") && !errdefs.IsInvalidArgument(err) {
			t.Fatalf("option %q: %v, %v", key, o, err)
		}
	})
}
