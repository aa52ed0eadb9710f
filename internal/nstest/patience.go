package nstest

import (
	"testing"
	"time"
)

// Within judges how long something took that is promised to take no longer than limit. Under the race detector, which makes programs several
// times slower and is run beside other tests, it only tells: a busy machine must not fail a test.
func Within(t testing.TB, what string, took, limit time.Duration) {
	t.Helper()
	t.Logf("%s took %v, of %v", what, took.Round(10*time.Microsecond), limit)
	if took > limit && !raced {
		t.Errorf("%s took %v, more than %v", what, took, limit)
	}
}
