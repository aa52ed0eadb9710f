// Package drivers is the list of the built-in network drivers: the one place where that choice lives.
package drivers

import (
	"github.com/sealane/sealane/drivers/bridge"
	"github.com/sealane/sealane/drivers/host"
	"github.com/sealane/sealane/drivers/null"
	"github.com/sealane/sealane/drivers/overlay"
	"github.com/sealane/sealane/netdriver"
)

// All makes every built-in driver, by the name that networks call it.
func All() map[string]netdriver.Driver {
	return map[string]netdriver.Driver{
		"bridge":  bridge.New(),
		"host":    host.New(),
		"null":    null.New(),
		"overlay": overlay.New(),
	}
}
