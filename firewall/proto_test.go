package firewall

import (
	"net/netip"
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

func TestTextOfPorts(t *testing.T) {
	four, six := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("2001:db8::1")
	for want, p := range map[string]Port{
		"0.0.0.0:80/tcp -> 10.1.0.2:8080": {Proto: TCP, Host: four, HostPorts: Range{80, 80}, Target: netip.MustParseAddr("10.1.0.2"), Ports: Range{8080, 8080}},
		"[2001:db8::1]:80-89/udp -> [fd00::2]:90-99 at sl-0123 respecting the host": {Interface: "sl-0123", Proto: UDP, Host: six,
			HostPorts: Range{80, 89}, Target: netip.MustParseAddr("fd00::2"), Ports: Range{90, 99}, RespectHost: true},
	} {
		text, err := p.MarshalText()
		if err != nil || string(text) != want {
			t.Errorf("%+v is %q, %v, want %q", p, text, err, want)
		}
		var again Port
		if err := again.UnmarshalText(text); err != nil || again != p {
			t.Errorf("%s is read as %+v, %v", text, again, err)
		}
	}
	if _, err := (Port{Proto: TCP, Host: four, HostPorts: Range{80, 80}, Target: six, Ports: Range{80, 80}}).MarshalText(); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a port from IPv4 to IPv6: %v", err)
	}
}

func FuzzTextOfPorts(f *testing.F) {
	for _, s := range []string{"0.0.0.0:80/tcp -> 10.1.0.2:8080", "[::]:1-2/sctp -> [fd00::2]:3-4 at br0 respecting the host", " at  -> /", "[::1%lo]:1/tcp -> [::1]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var p, again Port
		if err := p.UnmarshalText([]byte(s)); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		text, err := p.MarshalText()
		if err == nil {
			err = again.UnmarshalText(text)
		}
		if err != nil || again != p {
			t.Errorf("%q is %+v, again %q, %+v, %v", s, p, text, again, err)
		}
	})
}
