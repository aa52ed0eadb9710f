package pool

import "math/bits"

// set holds the taken addresses of a subnet and who took them. It is a tree of bitmaps with 64 slots a node. Only what is taken
// has nodes, and a run of nodes with one child each is left out, so that a subnet of any size costs what its addresses cost.
// Every operation is one way down, however many are taken: two or three nodes in a /16.
type set struct {
	root  *node
	taken uint64
	spare [2]*node // a leaf and a branch given back, so that coming and going at an edge costs no memory
}

// node spans 64 << shift keys.
type node struct {
	first  key      // a multiple of the span
	rest   key      // the span less 1: the bits that first does not fix
	shift  uint     // a slot spans 1 << shift keys; 0 in a leaf
	full   uint64   // slots without a free key
	some   uint64   // slots with a taken key; in a leaf the same as full
	kids   []*node  // of a branch, by slot; each spans a slot or an aligned part of it
	owners []uint64 // of a leaf, by slot
}

const (
	slotBits = 6
	allSlots = ^uint64(0)
	topShift = 126 // the span of a node this high is more than there are keys: four slots are
)

func (n *node) leaf() bool { return n.shift == 0 }

func (n *node) holds(k key) bool {
	return (k.hi^n.first.hi)&^n.rest.hi|(k.lo^n.first.lo)&^n.rest.lo == 0
}

func (n *node) slot(k key) int {
	if n.shift < 60 { // the slot's bits lie in one word
		return int(k.lo >> n.shift & 63)
	}
	return int(k.shiftRight(n.shift).lo & 63)
}

// start is the first key of a slot.
func (n *node) start(slot int) key { return n.first.plus(key{0, uint64(slot)}.shiftLeft(n.shift)) }

// owner returns who took k.
func (s *set) owner(k key) (owner uint64, taken bool) {
	n := s.root
	for n != nil && n.holds(k) {
		i := n.slot(k)
		if n.leaf() {
			return n.owners[i], n.full>>i&1 == 1
		}
		n = n.kids[i]
	}
	return 0, false
}

// take gives k, which is free, to owner.
func (s *set) take(k key, owner uint64) {
	s.root = s.reaching(s.root, k)
	s.add(s.root, k, owner)
	s.taken++
}

// reaching returns n, or what must stand in its place to hold k too.
func (s *set) reaching(n *node, k key) *node {
	if n == nil {
		return s.newNode(0, k)
	}
	if n.holds(k) {
		return n
	}
	apart := key{n.first.hi ^ k.hi, n.first.lo ^ k.lo}
	highest := bits.Len64(apart.lo) - 1
	if apart.hi != 0 {
		highest = 63 + bits.Len64(apart.hi)
	}
	branch := s.newNode(uint(highest/slotBits*slotBits), k)
	branch.adopt(branch.slot(n.first), n)
	return branch
}

// add takes k in n, which holds it.
func (s *set) add(n *node, k key, owner uint64) {
	i := n.slot(k)
	if n.leaf() {
		n.mark(i, owner)
		return
	}
	kid := s.reaching(n.kids[i], k)
	s.add(kid, k, owner)
	n.adopt(i, kid)
}

func (n *node) mark(i int, owner uint64) {
	n.owners[i] = owner
	n.full |= 1 << i
	n.some = n.full
}

// adopt notes what a child is now. A slot is full when all of it is.
func (n *node) adopt(i int, kid *node) {
	n.kids[i] = kid
	n.some |= 1 << i
	if kid.full == allSlots && kid.shift+slotBits == n.shift {
		n.full |= 1 << i
	}
}

// claim gives the lowest free key from k on to owner; ok is false when there is none up to the highest of all.
func (s *set) claim(k key, owner uint64) (got key, ok bool) {
	n := s.root
	for n != nil && n.holds(k) {
		i := n.slot(k)
		open := ^n.full >> i << i
		if open == 0 { // nothing from k on in here
			if k = n.end(); k == (key{}) {
				return key{}, false
			}
			n = s.root
			continue
		}
		next := bits.TrailingZeros64(open)
		if n.leaf() {
			k = n.start(next)
			n.mark(next, owner)
			s.taken++
			if n.full == allSlots {
				s.filled(s.root, k)
			}
			return k, true
		}
		if next != i {
			k = n.start(next)
		}
		n = n.kids[next]
	}
	s.take(k, owner)
	return k, true
}

// filled tells the nodes above the leaf of k that it has filled up.
func (s *set) filled(n *node, k key) {
	if n.leaf() {
		return
	}
	i := n.slot(k)
	s.filled(n.kids[i], k)
	n.adopt(i, n.kids[i])
}

// end is the key after the span, 0 after the highest of all.
func (n *node) end() key { return n.first.plus(n.rest).next() }

// free gives k back, if it is taken.
func (s *set) free(k key) {
	if s.root == nil || !s.root.holds(k) {
		return
	}
	taken, empty := s.remove(s.root, k)
	if taken {
		s.taken--
	}
	if empty {
		s.root = nil
	}
}

// remove frees k in n, which holds it. It says whether k was taken and whether that leaves n empty.
func (s *set) remove(n *node, k key) (taken, empty bool) {
	i := n.slot(k)
	if n.leaf() {
		if n.full>>i&1 == 0 {
			return false, false
		}
		n.full &^= 1 << i
		n.some = n.full
	} else {
		kid := n.kids[i]
		if kid == nil || !kid.holds(k) {
			return false, false
		}
		taken, gone := s.remove(kid, k)
		if !taken {
			return false, false
		}
		n.full &^= 1 << i
		if gone {
			n.kids[i] = nil
			n.some &^= 1 << i
		}
	}
	if n.some == 0 {
		s.keep(n)
	}
	return true, n.some == 0
}

// count returns how many keys of a span are taken.
func (s *set) count(in span) uint64 {
	if s.root == nil {
		return 0
	}
	return s.root.count(in)
}

func (n *node) count(in span) (taken uint64) {
	for some := n.some; some != 0; some &= some - 1 {
		i := bits.TrailingZeros64(some)
		if !n.leaf() {
			taken += n.kids[i].count(in)
		} else if in.has(n.start(i)) {
			taken++
		}
	}
	return taken
}

func (s *set) newNode(shift uint, holding key) *node {
	kind := min(shift, 1)
	n := s.spare[kind]
	s.spare[kind] = nil
	switch {
	case n != nil:
	case kind == 0:
		n = &node{owners: make([]uint64, 64)}
	default:
		n = &node{kids: make([]*node, 64)}
	}
	n.shift = shift
	n.rest = low(shift + slotBits)
	n.first = key{holding.hi &^ n.rest.hi, holding.lo &^ n.rest.lo}
	n.full = 0
	if shift == topShift {
		n.full = allSlots &^ 15
	}
	return n
}

// keep keeps an empty node for the next.
func (s *set) keep(n *node) { s.spare[min(n.shift, 1)] = n }
