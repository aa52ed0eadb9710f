// Package labels turns the string options of a driver into a struct and back, by a table of keys.
package labels

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Key is one option of the struct T, made by Value, On or Off.
type Key[T any] struct {
	short, docker, valid string
	get                  func(T) string
	set                  func(*T, string) error
}

// Value is an option with two names, of which both are read and the short one is written; docker "": it has no other. valid says in
// words what may stand there. write answers "" for the default, and read is not asked for it.
func Value[T, V any](short, docker, valid string, field func(*T) *V, read func(string) (V, error), write func(V) string) Key[T] {
	return Key[T]{
		short: short, docker: docker, valid: valid,
		get: func(o T) string { return write(*field(&o)) },
		set: func(o *T, s string) (err error) {
			*field(o), err = read(s)
			return err
		},
	}
}

// On is an option that is false by default, and a field that says the same.
func On[T any](short, docker string, field func(*T) *bool) Key[T] {
	return flag(short, docker, field, true)
}

// Off is an option that is true by default, and a field that says the opposite.
func Off[T any](short, docker string, field func(*T) *bool) Key[T] {
	return flag(short, docker, field, false)
}

func flag[T any](short, docker string, field func(*T) *bool, means bool) Key[T] {
	read := func(s string) (bool, error) {
		v, err := strconv.ParseBool(s)
		return v == means, err
	}
	write := func(set bool) string {
		if !set {
			return ""
		}
		return strconv.FormatBool(means)
	}
	return Value(short, docker, "true or false", field, read, write)
}

// Table is all options of a driver.
type Table[T any] struct {
	Of   string   // whose they are, for errors: "driver bridge"
	Ours []string // prefixes of Docker's whose every key is ours
	Keys []Key[T]
}

// Parse reads labels. A key without a dot, or with one of the prefixes Ours, is ours: one that the table has not is InvalidArgument, and
// so is any bad value. Other keys pass. A key given by both its names must have one value.
func (t Table[T]) Parse(labels map[string]string) (T, error) {
	var options T
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if t.ours(name) && !slices.ContainsFunc(t.Keys, func(k Key[T]) bool { return k.short == name || k.docker == name && name != "" }) {
			return options, fmt.Errorf("option %q is unknown to %s, which %s: %w", name, t.Of, t.knows(), errdefs.ErrInvalidArgument)
		}
	}
	for _, k := range t.Keys {
		short, isShort := labels[k.short]
		docker, isDocker := labels[k.docker]
		isDocker = isDocker && k.docker != ""
		name, value := k.short, short
		switch {
		case isShort && isDocker && short != docker:
			return options, fmt.Errorf("options %q and %q are the same and have different values: give one: %w", k.short, k.docker, errdefs.ErrInvalidArgument)
		case isDocker:
			name, value = k.docker, docker
		case !isShort:
			continue
		}
		if err := k.set(&options, value); err != nil {
			return options, fmt.Errorf("option %s: value %q: want %s: %w", name, value, k.valid, errdefs.ErrInvalidArgument)
		}
	}
	return options, nil
}

// Format writes the options that are not at their default, so that Parse gives the same struct. Nil when all are.
func (t Table[T]) Format(options T) map[string]string {
	var labels map[string]string
	for _, k := range t.Keys {
		value := k.get(options)
		if value == "" {
			continue
		}
		if labels == nil {
			labels = make(map[string]string)
		}
		labels[k.short] = value
	}
	return labels
}

func (t Table[T]) ours(name string) bool {
	return !strings.Contains(name, ".") || slices.ContainsFunc(t.Ours, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (t Table[T]) knows() string {
	if len(t.Keys) == 0 {
		return "has none"
	}
	var names []string
	for _, k := range t.Keys {
		names = append(names, k.short)
	}
	return "has " + strings.Join(names, ", ")
}
