package datastore_test

import (
	"strconv"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
)

// A Memo answers what the store has at the moment, however often that changed and came back.
func TestMemo(t *testing.T) {
	type record struct{ Name string }
	table := datastore.Table[record]{Dir: "x"}
	s := datastore.NewMemory()
	defer s.Close()
	var kept datastore.Memo[record]
	for _, memo := range []*datastore.Memo[record]{nil, &kept} {
		for i := range 200 {
			want := record{strconv.Itoa(i % 70)}
			err := s.Update(t.Context(), func(tx datastore.Tx) error {
				put := table.Put
				if i%2 == 0 {
					put = func(tx datastore.Tx, id string, v record) error { return memo.Put(tx, table, id, v) }
				}
				if err := put(tx, "id", want); err != nil {
					return err
				}
				for range 2 {
					if got, err := memo.Get(tx, table, "id"); err != nil || got != want {
						t.Errorf("got %v, want %v, %v", got, want, err)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	err := s.View(t.Context(), func(tx datastore.Tx) error {
		_, err := kept.Get(tx, table, "other")
		return err
	})
	if !errdefs.IsNotFound(err) {
		t.Errorf("an absent record: %v", err)
	}
}

func TestMemoOfNonsense(t *testing.T) {
	s := datastore.NewMemory()
	defer s.Close()
	var memo datastore.Memo[int]
	err := s.Update(t.Context(), func(tx datastore.Tx) error {
		if err := tx.Put("x/id", []byte("{")); err != nil {
			return err
		}
		for range 2 {
			if _, err := memo.Get(tx, datastore.Table[int]{Dir: "x"}, "id"); !errdefs.IsDataLoss(err) {
				t.Errorf("want DataLoss, got %v", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
