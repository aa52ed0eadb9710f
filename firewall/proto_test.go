package firewall

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseRange(t *testing.T) {
	for in, want := range map[string]string{
		"80": "80", "80-89": "80-89", "80-80": "80", "1-65535": "1-65535", "0080": "80",
		"": "!", "0": "!", "65536": "!", "89-80": "!", "-80": "!", "80-": "!", "80-81-82": "!", "+80": "!", " 80": "!", "http": "!", "0-0": "!",
	} {
		r, err := ParseRange(in)
		got := r.String()
		if err != nil {
			got = "!"
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v is not InvalidArgument", in, err)
			}
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestParseProto(t *testing.T) {
	for in, want := range map[string]Proto{"tcp": TCP, "UDP": UDP, "Sctp": SCTP, "": 0, "icmp": 0, "6": 0} {
		got, err := ParseProto(in)
		if got != want || (err == nil) != (want != 0) || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %s, %v", in, got, err)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"80", "80-89", "", "-", "65535-65536"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			return
		}
		if again, err := ParseRange(r.String()); err != nil || again != r || r.First == 0 || r.Len() < 1 || !r.Contains(r.First) || !r.Contains(r.Last) {
			t.Errorf("%q: %v, again %v, %v", s, r, again, err)
		}
		if strings.ContainsAny(s, " +") {
			t.Errorf("%q was taken", s)
		}
	})
}
