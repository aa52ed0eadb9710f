//go:build race

package nstest

// raced says whether the race detector is there.
const raced = true
