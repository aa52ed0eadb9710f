package sealane

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/sealane/sealane/sandbox"
)

// A look is shared by those only who asked before it began.
func TestLookout(t *testing.T) {
	const late = 5
	var l lookout
	var mu sync.Mutex
	begun, gate, looks := make(chan bool, 2+late), make(chan bool), 0
	see := func(context.Context) (observation, error) {
		mu.Lock()
		looks++
		o := observation{links: map[string]sandbox.Config{string(rune('0' + looks)): {}}}
		mu.Unlock()
		begun <- true
		<-gate
		return o, nil
	}
	saw := make(chan string, 10)
	ask := func() {
		o, err := l.share(context.Background(), see)
		if err != nil {
			t.Error(err)
		}
		for look := range o.links {
			saw <- look
		}
	}
	var work sync.WaitGroup
	work.Go(ask)
	<-begun

	for range late { // while the first looks
		work.Go(ask)
	}
	gate <- true
	<-begun
	work.Go(ask) // it may come too late for the second
	close(gate)
	work.Wait()
	close(saw)
	var all []string
	for s := range saw {
		all = append(all, s)
	}
	slices.Sort(all)
	if looks > 2+late || len(all) != 2+late || all[0] != "1" || all[1] == "1" {
		t.Errorf("%d looks gave %v", looks, all)
	}

	failed := errors.New("failed")
	if _, err := l.share(context.Background(), func(context.Context) (observation, error) { return observation{}, failed }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
}
