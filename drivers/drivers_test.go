package drivers_test

import (
	"testing"

	"github.com/sealane/sealane/drivers"
)

// A driver is listed under the name that it gives itself, and computes.
func TestAll(t *testing.T) {
	all := drivers.All()
	for _, name := range []string{"bridge", "host", "null", "overlay"} {
		if all[name] == nil {
			t.Errorf("driver %s is missing", name)
		}
	}
	for name, d := range all {
		if c, err := d.Capability(t.Context()); err != nil || c.Type != name || !c.Computes {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}
