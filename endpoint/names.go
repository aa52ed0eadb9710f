package endpoint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealane/sealane/sandbox"
)

// DNSNames are what an endpoint in a sandbox is called on its network, each once: its name, which is what its addresses are called, its
// aliases, the first 12 digits of the sandbox's id, and the sandbox's hostname. Of a zero sandbox there are the first two.
func (e Info) DNSNames(s sandbox.Info) []string {
	names := append([]string{e.Spec.Name}, e.Spec.Aliases...)
	names = append(names, string(s.ID[:min(12, len(s.ID))]), s.Spec.Names.Hostname)
	var kept []string
	for _, n := range names {
		if n != "" && !slices.Contains(kept, n) {
			kept = append(kept, n)
		}
	}
	return kept
}

// Called is what an endpoint's addresses are called: its name or, where nobody gave it one and that is the beginning of its id, the first of
// its aliases that is a name.
func (p Published) Called() string {
	if p.Name != "" && !strings.HasPrefix(string(p.ID), p.Name) {
		return p.Name
	}
	for _, a := range p.Aliases {
		if sandbox.CheckDomain(a) == nil {
			return a
		}
	}
	return p.Name
}

// CheckAlias refuses, as InvalidArgument, what is none of NAME, *.NAME (all below NAME that have no name of their own) and NAME=TARGET (a
// name that is another's).
func CheckAlias(alias string) error {
	name, target, another := strings.Cut(alias, "=")
	err := sandbox.CheckDomain(strings.TrimPrefix(name, "*."))
	if err == nil && another {
		err = sandbox.CheckDomain(target)
	}
	if err != nil {
		return fmt.Errorf("alias %.80q: %w", alias, err)
	}
	return nil
}

// CheckLink refuses, as InvalidArgument, an alias for a name that one of them cannot be.
func CheckLink(alias, name string) error {
	for _, n := range []string{alias, name} {
		if err := sandbox.CheckDomain(n); err != nil {
			return fmt.Errorf("link %.80q to %.80q: %w", alias, name, err)
		}
	}
	return nil
}
