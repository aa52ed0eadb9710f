package labels_test

import (
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/internal/labels"
)

type options struct {
	Size     int
	On, Less bool
}

func table() labels.Table[options] {
	return labels.Table[options]{Of: "driver test", Ours: []string{"docker.test."}, Keys: []labels.Key[options]{
		labels.Value("size", "docker.size", "a number", func(o *options) *int { return &o.Size }, strconv.Atoi, func(n int) string {
			if n == 0 {
				return ""
			}
			return strconv.Itoa(n)
		}),
		labels.On("on", "docker.test.on", func(o *options) *bool { return &o.On }),
		labels.Off("off", "", func(o *options) *bool { return &o.Less }),
	}}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		labels map[string]string
		want   options
		back   map[string]string
	}{
		{nil, options{}, nil},
		{map[string]string{"size": "3", "on": "true", "off": "false"}, options{3, true, true}, map[string]string{"size": "3", "on": "true", "off": "false"}},
		{map[string]string{"size": "0", "on": "false", "off": "true"}, options{}, nil},
		{map[string]string{"docker.size": "3", "docker.test.on": "1"}, options{Size: 3, On: true}, map[string]string{"size": "3", "on": "true"}},
		{map[string]string{"size": "3", "docker.size": "3"}, options{Size: 3}, map[string]string{"size": "3"}},
		{map[string]string{"docker.other": "x", "com.example": ""}, options{}, nil},
	} {
		got, err := table().Parse(c.labels)
		if err != nil || got != c.want {
			t.Errorf("%v: got %+v, %v, want %+v", c.labels, got, err, c.want)
		}
		if back := table().Format(got); !maps.Equal(back, c.back) {
			t.Errorf("%+v: written %v, want %v", got, back, c.back)
		}
	}
	for says, bad := range map[string]map[string]string{
		`option "sise" is unknown to driver test, which has size, on, off`: {"sise": "3"},
		`option "docker.test.of" is unknown`:                               {"docker.test.of": "3"},
		`option "" is unknown`:                                             {"": ""},
		`option size: value "big": want a number`:                          {"size": "big"},
		`option docker.size: value ""`:                                     {"docker.size": ""},
		`option off: value "off": want true or false`:                      {"off": "off"},
		`options "size" and "docker.size" are the same`:                    {"size": "3", "docker.size": "4"},
	} {
		got, err := table().Parse(bad)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: got %+v, %v, want %s", bad, got, err, says)
		}
	}
}
