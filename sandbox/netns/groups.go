package netns

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// groups are the link groups of one run directory: a number that nobody else uses, and some that follow. A link is in the first while it
// is made, until it has its alias, and in one of the others from when it is given up until it is gone. The number is random and kept in
// a file, so that the next daemon knows what the last one left.
type groups struct{ making uint32 }

// groupCount is how many follow each other; the first is a multiple of it, above 2^24 where nobody counts by hand.
const groupCount = 1 << 12

func openGroups(file string) (groups, error) {
	text, err := os.ReadFile(file)
	if err == nil {
		n, bad := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 31)
		if bad == nil && n > 1<<24 && n%groupCount == 0 {
			return groups{uint32(n)}, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return groups{}, fmt.Errorf("read link group: %w", err)
	}
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		return groups{}, fmt.Errorf("choose link group: %w", err)
	}
	g := groups{binary.NativeEndian.Uint32(random[:])&(1<<30-1)&^(groupCount-1) | 1<<30}
	if err := os.WriteFile(file, []byte(strconv.FormatUint(uint64(g.making), 10)+"\n"), 0o600); err != nil {
		return groups{}, fmt.Errorf("keep link group: %w", err)
	}
	return g, nil
}

// dead is the group of links given up in the nth round.
func (g groups) dead(n uint32) uint32 { return g.making + 1 + n%(groupCount-2) }

// going is the group of links that are deleted at once, or from their other side: nobody deletes by it. Whoever sees one go knows that it
// was us.
func (g groups) going() uint32 { return g.making + groupCount - 1 }

// isDead says whether a link of this group is as good as gone.
func (g groups) isDead(group uint32) bool { return group > g.making && group < g.making+groupCount }
