package null

import "github.com/sealane/sealane/internal/labels"

// Options are what a null network can be told: nothing.
type Options struct{}

// ParseOptions reads a network's options. A key without a dot is InvalidArgument, other keys are not for us and pass.
func ParseOptions(options map[string]string) (Options, error) { return table().Parse(options) }

// Labels are options as ParseOptions reads them.
func (o Options) Labels() map[string]string { return table().Format(o) }

func table() labels.Table[Options] { return labels.Table[Options]{Of: "driver null"} }
