package datastore_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(t testing.TB) (a, b datastore.Store) {
		s := datastore.NewMemory()
		t.Cleanup(func() { _ = s.Close() })
		return s, s
	})
}

// An Update of three puts, the size of what an attach writes.
func BenchmarkMemoryUpdate(b *testing.B) {
	for _, present := range []int{0, 1000} {
		b.Run(strconv.Itoa(present), func(b *testing.B) {
			ctx := context.Background()
			s := datastore.NewMemory()
			value := make([]byte, 700)
			keys := make([][3]string, max(present, 1))
			write := func(k [3]string) error {
				return s.Update(ctx, func(tx datastore.Tx) error {
					for _, key := range k {
						if err := tx.Put(key, value); err != nil {
							return err
						}
					}
					return nil
				})
			}
			for i := range keys {
				n := strconv.Itoa(i)
				keys[i] = [3]string{datastore.Key("ep", n), datastore.Key("name", "ep", n), datastore.Key("lease", n)}
				if err := write(keys[i]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if err := write(keys[i%len(keys)]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
