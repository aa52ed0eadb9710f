package sealane_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nshost"
	"github.com/sealane/sealane/internal/servertest"
	"github.com/sealane/sealane/sandbox"
)

var across = flag.Int("across", 10, "how many endpoints another host learns of in TestAcross")

// What one host makes, another can use as soon as the store has told it: the time from the call until both have it in their kernels is shown
// beside what the store takes from a write to its watch, in turns. The bench has it as its rows cluster.
func TestAcross(t *testing.T) {
	for _, kind := range []servertest.Kind{servertest.Consul, servertest.Etcd} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			server := servertest.One(t, kind, servertest.Options{})
			fleet := newFleet(t, 2, func(int) datastore.Store { return openAt(t, server, 0, "across") })
			here, there := overlay(t, fleet[0], fleet[1], "blue")
			fleet[1].container("db", nil, there)
			fleet[0].container("first", nil, here)
			learnt := neighboursAt(t, fleet[1].dir+"/netns/"+string(there.ID()))
			echo, err := storetest.NewEcho(t.Context(), openAt(t, server, 0, "across"), openAt(t, server, 0, "across"))
			if err != nil {
				t.Fatal(err)
			}
			var usable, told []time.Duration
			for i := range *across {
				took, err := echo.Took(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				told = append(told, took)
				name := fmt.Sprint("web", i)
				c := fleet[0].sandbox(sandbox.Spec{Name: name})
				begin := time.Now()
				info, err := c.join(here, endpoint.Spec{Name: name}).Info(t.Context())
				if err == nil {
					err = learnt.Await(info.MAC)
				}
				if err != nil {
					t.Fatal(err)
				}
				usable = append(usable, time.Since(begin))
			}
			t.Logf("usable %s, write to watch %s", spread(usable), spread(told))
		})
	}
}

func spread(all []time.Duration) string {
	slices.Sort(all)
	return fmt.Sprintf("%v, at the 99th percentile %v", all[len(all)/2], all[len(all)*99/100])
}

// neighboursAt listens to what a namespace comes to know.
func neighboursAt(t *testing.T, path string) *nshost.Neighbours {
	t.Helper()
	host, err := nshost.At(path)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	n, err := host.Neighbours()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}
