package sealane_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/sandbox"
)

// TestOneThatFailsHoldsUpNobody: what cannot be mended is tried ever more rarely, and what somebody else breaks meanwhile is mended at once.
func TestOneThatFailsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		bridge := func(name string) string {
			before := m.kernel.Links("")
			must(m.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: name}))
			for _, l := range m.kernel.Links("") {
				if !slices.Contains(before, l) {
					return l
				}
			}
			t.Fatal("no bridge of ", name)
			return ""
		}
		red, blue := bridge("red"), bridge("blue")
		synctest.Wait() // everybody watches
		var tries atomic.Int64
		var able atomic.Bool
		m.kernel.Fault = func(op string) error {
			if able.Load() || !strings.Contains(op, red) {
				return nil
			}
			tries.Add(1)
			return errInjected
		}
		remove := func(link string) {
			if err := m.kernel.Meddle("", sandbox.Step{Op: sandbox.DelLink, Link: sandbox.Link{Name: link, Bridge: &sandbox.Bridge{}}}); err != nil {
				t.Fatal(err)
			}
		}
		remove(red)
		<-time.After(10 * time.Minute)
		if n := tries.Load(); n < 5 || n > 100 {
			t.Errorf("tried %d times in ten minutes, want ever more rarely", n)
		}
		remove(blue)
		<-time.After(time.Second)
		if !slices.Contains(m.kernel.Links(""), blue) {
			t.Error("blue is not there a second after somebody deleted it, because red cannot be mended")
		}
		able.Store(true)
		<-time.After(time.Minute)
		if !slices.Contains(m.kernel.Links(""), red) {
			t.Error("red is not there, though it could be")
		}
	})
}
