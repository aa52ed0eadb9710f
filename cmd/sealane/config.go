package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/BurntSushi/toml"
	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const configFile = "/etc/sealane/config.toml"

// readConfig sets the flags that the file names and the command line does not. A file that is named must be there.
func readConfig(cmd *cobra.Command, path string) error {
	named := path != ""
	if !named {
		path = configFile
	}
	values := map[string]any{}
	_, err := toml.DecodeFile(path, &values)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil
	}
	if err != nil {
		return fmt.Errorf("config %s: %w: %w", path, errdefs.ErrInvalidArgument, err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		flag := cmd.Flags().Lookup(key)
		if flag == nil || key == "config" || key == "help" {
			return fmt.Errorf("config %s: %s: %w: serve has no such flag", path, key, errdefs.ErrInvalidArgument)
		}
		if flag.Changed {
			continue
		}
		if err := setFlag(flag, values[key]); err != nil {
			return fmt.Errorf("config %s: %s: %w", path, key, err)
		}
	}
	return nil
}

// setFlag sets a flag to a value, or to each of a list.
func setFlag(flag *pflag.Flag, value any) error {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for _, v := range list {
		if err := flag.Value.Set(fmt.Sprint(v)); err != nil {
			return err
		}
	}
	return nil
}
