package null

import "github.com/sealane/sealane/netdriver"

// planner plans nothing: there is nothing to make.
func planner() netdriver.Planner {
	return netdriver.Bare("null", func(options map[string]string) error {
		_, err := ParseOptions(options)
		return err
	})
}
