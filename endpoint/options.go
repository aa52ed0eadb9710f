package endpoint

import (
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
)

// Docker's names of what an endpoint is told among its driver's options.
const (
	optionPrefix  = "com.docker.network.endpoint."
	optionIfName  = optionPrefix + "ifname"
	optionSysctls = optionPrefix + "sysctls" // net.ipv4.conf.IFNAME.log_martians=1,…
)

// Decoded is s with those of its Options that are no driver's affair in the fields that they are about: Interface and Sysctls. The rest are
// the driver's. InvalidArgument for one that means nothing, and for one that says otherwise than the field does.
func (s Spec) Decoded() (Spec, error) {
	left := maps.Clone(s.Options)
	for key, value := range s.Options {
		if !strings.HasPrefix(key, optionPrefix) {
			continue
		}
		var err error
		switch key {
		case optionIfName:
			s.Interface, err = one(s.Interface, value)
		case optionSysctls:
			s.Sysctls, err = settings(s.Sysctls, value)
		default:
			err = fmt.Errorf("it means nothing: of this name there are ifname and sysctls")
		}
		if err != nil {
			return s, fmt.Errorf("option %.80s: %w: %w", key, errdefs.ErrInvalidArgument, err)
		}
		delete(left, key)
	}
	s.Options = left
	return s, nil
}

func one(has, value string) (string, error) {
	if has != "" && has != value {
		return has, fmt.Errorf("value %.80q, and it is %s already", value, has)
	}
	return value, nil
}

// settings adds those of a text, parted by commas.
func settings(has map[string]string, text string) (map[string]string, error) {
	all := maps.Clone(has)
	if all == nil {
		all = map[string]string{}
	}
	for _, setting := range strings.Split(text, ",") {
		name, value, ok := strings.Cut(setting, "=")
		if !ok {
			return has, fmt.Errorf("want name=value, not %.80q", setting)
		}
		name = strings.TrimSpace(name)
		var err error
		if all[name], err = one(all[name], strings.TrimSpace(value)); err != nil {
			return has, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}
