package dns

import (
	"sync"
	"testing"
)

// TestQueueIsFair: who comes with one job does not wait for all those of who came with many.
func TestQueueIsFair(t *testing.T) {
	q := newQueue(2, 2)
	greedy, modest := &turn{}, &turn{}
	gate := make(chan struct{})
	var mu sync.Mutex
	var order []string
	var work sync.WaitGroup
	submit := func(who *turn, name string) bool {
		work.Add(1)
		ok := q.submit(who, func() {
			defer work.Done()
			<-gate
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
		})
		if !ok {
			work.Done()
		}
		return ok
	}
	taken := 0
	for submit(greedy, "greedy") {
		taken++
	}
	if want := waitEach + 2; taken != want {
		t.Errorf("%d jobs of one were taken, want %d", taken, want)
	}
	if !submit(modest, "modest") {
		t.Fatal("the other is refused")
	}
	close(gate)
	work.Wait()
	at := -1
	for i, name := range order {
		if name == "modest" {
			at = i
		}
	}
	if at < 0 || at > 16 {
		t.Errorf("it had its turn after %d others", at)
	}
}
