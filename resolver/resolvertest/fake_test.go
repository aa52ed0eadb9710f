package resolvertest_test

import (
	"strconv"
	"testing"

	"github.com/sealane/sealane/resolver/resolvertest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

func TestFake(t *testing.T) {
	resolvertest.Run(t, func(t testing.TB) resolvertest.Env {
		kernel, f, n := sandboxtest.NewFake(), resolvertest.NewFake(), 0
		open := func(ns sandbox.Namespace, err error) sandbox.Namespace {
			if err != nil {
				t.Fatal(err)
			}
			return ns
		}
		return resolvertest.Env{
			Resolver: f, Ask: f.Lookup,
			Host: open(kernel.Open(t.Context(), sandbox.Origin{Host: true})),
			Space: func() sandbox.Namespace {
				n++
				return open(kernel.Create(t.Context(), strconv.Itoa(1000+n)))
			},
		}
	})
}
