package resolver_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/resolver"
)

func TestSelfNames(t *testing.T) {
	for in, want := range map[[2]string]string{
		{"web", ""}: "web", {"web", "example.org"}: "web.example.org web", {"web.example.org", ""}: "web.example.org web",
		{"web.example.org", "other.example"}: "web.example.org web", {"web.", ""}: "web.",
	} {
		if got := strings.Join(resolver.SelfNames(in[0], in[1]), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Behaviour 71: given hostnames that begin with one another, only lines that are exactly ours change.
func TestBehaviour71PrefixHostnames(t *testing.T) {
	ours := []string{"10.1.0.2\tweb", "10.1.0.22\twebapp", "10.1.0.2\twebapp", "10.1.0.2\tweb.example.org web"}
	text := "127.0.0.1\tlocalhost\n" + strings.Join(ours, "\n") + "\n10.1.0.2\tweb  # mine\n 10.1.0.2\tweb\n"
	is := func(line string) bool { return slices.Contains(ours, line) }
	got := resolver.MergeHosts(text, is, []string{"10.1.0.22\twebapp", "10.1.0.3\tweb"}, []string{"10.1.0.3\tweb"})
	want := "127.0.0.1\tlocalhost\n10.1.0.22\twebapp\n10.1.0.2\tweb  # mine\n 10.1.0.2\tweb\n10.1.0.3\tweb\n"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Whatever the file says: what we want is in it once more than never, what we wanted is not, what others wrote is as it was and where it
// was.
func FuzzHosts(f *testing.F) {
	f.Add("127.0.0.1\tlocalhost\n10.1.0.2\tweb\n", "10.1.0.2\tweb", "10.1.0.3\tweb")
	f.Add("10.1.0.2\tweb", "", "10.1.0.2\tweb\n10.1.0.2\tweb")
	f.Add("\n\n# mine\r\n10.1.0.2\tweb\n10.1.0.2\tweb\n", "10.1.0.2\tweb\n", "")
	f.Fuzz(func(t *testing.T, text, before, after string) {
		ours, want := strings.Split(before, "\n"), strings.Split(after, "\n")
		is := func(line string) bool { return slices.Contains(ours, line) || slices.Contains(want, line) }
		got := resolver.MergeHosts(text, is, want, want)
		if again := resolver.MergeHosts(got, is, want, want); again != got {
			t.Fatalf("%q, then %q", got, again)
		}
		foreign := func(text string) []string {
			var lines []string
			for line := range strings.Lines(text) {
				if bare := strings.TrimSuffix(line, "\n"); !is(bare) {
					lines = append(lines, bare)
				}
			}
			return lines
		}
		if others, left := foreign(text), foreign(got); !slices.Equal(others, left) {
			t.Fatalf("of others there was %q and is %q", others, left)
		}
		lines := strings.Split(got, "\n")
		for _, line := range want {
			if !slices.Contains(lines, line) {
				t.Fatalf("%q is not in %q", line, got)
			}
		}
		for _, line := range lines[:len(lines)-1] {
			if slices.Contains(ours, line) && !slices.Contains(want, line) {
				t.Fatalf("%q is left in %q", line, got)
			}
		}
	})
}
