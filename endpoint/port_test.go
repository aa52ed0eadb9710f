package endpoint_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
)

func TestParsePort(t *testing.T) {
	for in, want := range map[string]string{
		"80":                            "80/tcp",
		"80/udp":                        "80/udp",
		"80/SCTP":                       "80/sctp",
		":80":                           "80/tcp",
		"0:80":                          "80/tcp",
		"8080:80":                       "8080:80/tcp",
		"8080:80/udp":                   "8080:80/udp",
		"0080:80":                       "80:80/tcp",
		"8000-8009:80":                  "8000-8009:80/tcp",
		"8000-8009:9000-9009/udp":       "8000-8009:9000-9009/udp",
		"8000-8000:80":                  "8000:80/tcp",
		"90-99":                         "90-99/tcp",
		"127.0.0.1:8080:80":             "127.0.0.1:8080:80/tcp",
		"127.0.0.1::80":                 "127.0.0.1::80/tcp",
		"127.0.0.1:80":                  "127.0.0.1::80/tcp",
		"127.0.0.1:0:80":                "127.0.0.1::80/tcp",
		"0.0.0.0:1-2:3-4/sctp":          "0.0.0.0:1-2:3-4/sctp",
		"[::1]:8080:80":                 "[::1]:8080:80/tcp",
		"[::]::80-81/udp":               "[::]::80-81/udp",
		"[2001:db8:0:0::1]:80":          "[2001:db8::1]::80/tcp",
		"[::ffff:192.0.2.1]:8080:80":    "192.0.2.1:8080:80/tcp",
		"65535:65535":                   "65535:65535/tcp",
		"[fe80::1]:60000-60001:1-2/tcp": "[fe80::1]:60000-60001:1-2/tcp",
	} {
		b, err := endpoint.ParsePort(in)
		if err != nil || b.String() != want {
			t.Errorf("%s: got %s, %v, want %s", in, b, err, want)
		}
	}
}

func TestParsePortRefuses(t *testing.T) {
	for in, says := range map[string]string{
		"":                   `container port "" is not a number from 1 to 65535`,
		"0":                  `container port "0"`,
		"65536":              `container port "65536"`,
		"-1":                 `container port ""`,
		"+80":                `container port "+80"`,
		" 80":                `container port " 80"`,
		"80 ":                `container port "80 "`,
		"80\n":               `container port "80\n"`,
		"http":               `container port "http"`,
		"80-":                `container port ""`,
		"90-80":              `container port range "90-80" ends before it begins`,
		"1-2-3":              `container port "2-3"`,
		"80/":                `protocol "" is not tcp, udp or sctp`,
		"80/icmp":            `protocol "icmp"`,
		"80/tcp/udp":         `protocol "tcp/udp"`,
		"8080:":              `container port ""`,
		"0-10:80":            `host port "0"`,
		"65536:80":           `host port "65536"`,
		"8000-8009:80-81":    "10 host ports for 2 container ports",
		"8000:80-81":         "1 host ports for 2 container ports",
		"1:2:3:4":            "too many colons",
		"::80":               "too many colons",
		"::1:8080:80":        "too many colons",
		"2001:db8::1:80:80":  "too many colons",
		"fe80::1:80:80":      "an IPv6 address stands in brackets",
		"localhost:80:80":    `"localhost" is neither`,
		"256.0.0.1:80:80":    `"256.0.0.1" is neither`,
		"127.0.0.1:8080:":    `container port ""`,
		"127.0.0.1:1:2:3":    "too many colons",
		"[::1]":              `between "[" and "]:"`,
		"[::1]80":            `between "[" and "]:"`,
		"[]:80":              `between "[" and "]:"`,
		"[::1%eth0]:80:80":   `between "[" and "]:"`,
		"[127.0.0.1]:80:80":  `between "[" and "]:"`,
		"[::1:80:80":         `between "[" and "]:"`,
		"8080:80:udp":        "too many colons",
		"8080:80,8081:81":    "too many colons",
		"8080:80/tcp,81/udp": `protocol "tcp,81/udp"`,
	} {
		b, err := endpoint.ParsePort(in)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "port \"") {
			t.Errorf("%q: got %s, %v, want an error with %q", in, b, err, says)
		}
	}
}

// What is read is written so that it is read the same.
func FuzzParsePort(f *testing.F) {
	for _, seed := range []string{"80", "8080:80/udp", "127.0.0.1:1-2:3-4", "[::1]::80/sctp", "[::ffff:1.2.3.4]:80", "::", "0-0:0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := endpoint.ParsePort(s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		text, err := b.MarshalText()
		if err != nil || string(text) != b.String() {
			t.Fatalf("%q is %s and written %q, %v", s, b, text, err)
		}
		var again endpoint.PortBinding
		if err := again.UnmarshalText(text); err != nil || again != b {
			t.Fatalf("%q is %s, which is %s, %v", s, b, again, err)
		}
		if b.Ports.Len() < 1 || b.HostPorts.Len() != 0 && b.HostPorts.Len() != b.Ports.Len() && b.Ports.Len() != 1 {
			t.Fatalf("%q is %s", s, b)
		}
	})
}
