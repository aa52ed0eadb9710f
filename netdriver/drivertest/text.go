package drivertest

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/golden"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// Text is a plan for people and golden files: its links as the commands that would make them, the rest field by field.
func Text(p netdriver.Plan) string {
	var b strings.Builder
	for _, s := range p.Shares {
		if s.Space == "" {
			b.WriteString("host:\n")
		} else {
			fmt.Fprintf(&b, "namespace %s:\n", s.Space)
		}
		for _, step := range sandbox.Diff(sandbox.Config{}, s.Config) {
			fmt.Fprintf(&b, "  %s\n", step)
		}
		for _, l := range s.Config.Links {
			if len(l.Announce) > 0 {
				fmt.Fprintf(&b, "  announce %v at %s by %s\n", l.Announce, l.Veth.MAC, l.Name)
			}
		}
		terms := reflect.ValueOf(s.Terms)
		for i := range terms.NumField() {
			for j := range terms.Field(i).Len() {
				fmt.Fprintf(&b, "  %s %s\n", strings.ToLower(terms.Type().Field(i).Name), fields(terms.Field(i).Index(j)))
			}
		}
	}
	if p.Attachment != nil {
		b.WriteString("brings:\n")
		v := reflect.ValueOf(*p.Attachment)
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				fmt.Fprintf(&b, "  %s %s\n", v.Type().Field(i).Name, fields(v.Field(i)))
			}
		}
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

// fields is a value with the names of its fields, without those that are zero.
func fields(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case firewall.Port: // whose text leaves fields out
	case fmt.Stringer:
		return x.String()
	}
	var parts []string
	switch v.Kind() {
	case reflect.Pointer:
		return fields(v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			parts = append(parts, fields(v.Index(i)))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Struct:
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				parts = append(parts, v.Type().Field(i).Name+"="+fields(v.Field(i)))
			}
		}
		return "{" + strings.Join(parts, " ") + "}"
	}
	return fmt.Sprint(v.Interface())
}

// Golden compares text with testdata/<name>.txt, or writes that file when update is set.
func Golden(t *testing.T, update bool, name, text string) {
	t.Helper()
	golden.Check(t, update, name, text)
}
