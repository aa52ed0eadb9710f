package host

import "github.com/sealane/sealane/netdriver"

// planner plans nothing: all is there already.
func planner() netdriver.Planner {
	return netdriver.Bare("host", func(options map[string]string) error {
		_, err := ParseOptions(options)
		return err
	})
}
