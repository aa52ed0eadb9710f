package netns

import (
	"slices"
	"testing"
	"time"
)

// A link that was given up alone is deleted by its index, several by the group that they are in, and what is not due waits.
func TestDig(t *testing.T) {
	later := time.Now().Add(time.Hour)
	in := func(group, index uint32, due time.Time) grave {
		return grave{plot: plot{group: group}, index: index, due: due}
	}
	r := reaper{links: []grave{in(1, 11, time.Time{}), in(2, 21, time.Time{}), in(3, 31, later), in(2, 22, later), in(4, 0, time.Time{})}}
	want := []exhumed{{plot: plot{group: 1}, alone: 11}, {plot: plot{group: 2}}, {plot: plot{group: 4}}}
	if got := r.dig(false); !slices.Equal(got, want) {
		t.Errorf("due: %v, want %v", got, want)
	}
	if got := r.dig(true); !slices.Equal(got, []exhumed{{plot: plot{group: 3}, alone: 31}}) {
		t.Errorf("the rest: %v", got)
	}
	if got := r.dig(true); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}
