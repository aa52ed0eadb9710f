package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"os"
)

// The layout of a bbolt file, version 2, as far as it must be read to trust it. Numbers are in the byte order of the machine.
//
//	page     id u64, flags u16, count u16, overflow u32 (pages that follow), then the elements, then keys and values
//	meta     (after the page's header) magic u32, version u32, page size u32, flags u32, root bucket, freelist u64, pages u64, tx u64,
//	         FNV-1a of all that u64
//	bucket   root page u64 (0: the page follows right here), sequence u64
//	leaf     flags u32 (1: the value is a bucket), position u32 (of the key, counted from here), key size u32, value size u32
//	branch   position u32, key size u32, page u64
const (
	pageSize    = 4096
	headerSize  = 16
	elementSize = 16
	bucketSize  = 16
	metaSummed  = 56

	flagBranch  = 1
	flagLeaf    = 2
	bucketLeaf  = 1
	noFreelist  = ^uint64(0)
	metaMagic   = 0xED0CDAED
	metaVersion = 2
)

// What is ours in it: one bucket whose values begin with a checksum over key and value, and whose sequence is the digest of all
// records: the sum of their weights. A record that is missing shows there.
const (
	recordsBucket = "records"
	sealSize      = 4
)

func seal(key, value []byte) []byte {
	b := make([]byte, sealSize+len(value))
	copy(b[sealSize:], value)
	binary.BigEndian.PutUint32(b, checksum(key, value))
	return b
}

func unseal(key, stored []byte) (value []byte, ok bool) {
	if len(stored) < sealSize {
		return nil, false
	}
	value = stored[sealSize:]
	return value, binary.BigEndian.Uint32(stored) == checksum(key, value)
}

func checksum(key, value []byte) uint32 {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, castagnoli, key), castagnoli, value)
}

// weight spreads a record's checksum over 64 bits; that of no record is 0.
func weight(stored []byte) uint64 {
	if len(stored) < sealSize {
		return 0
	}
	x := uint64(binary.BigEndian.Uint32(stored)) + 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// errRead is a failure to read the file, which says nothing about what it holds.
var errRead = errors.New("read")

// damage tells a damaged file from one that could not be read.
func damage(path string, err error) error {
	if errors.Is(err, errRead) {
		return kind(err)
	}
	return &Corrupt{Path: path, Reason: err.Error()}
}

// verify reads a file and says whether bbolt can read it without harm and every record is there as it was written. It maps nothing
// and trusts nothing, so that no damage can do more than make it fail.
//
// Both meta pages must be good. bbolt makes do with one, but if that is the older then the last commit is lost without a word. No
// power cut makes a bad one: what counts of a meta page are 80 bytes in one sector, which a disk writes whole or not at all.
func verify(f *os.File) error {
	metas, err := read(f, 2*pageSize)
	if err != nil {
		return err
	}
	m0, err0 := parseMeta(metas[:pageSize])
	m1, err1 := parseMeta(metas[pageSize:])
	if err := errors.Join(err0, err1); err != nil {
		return err
	}
	if m0.tx%2 != 0 || m1.tx != m0.tx+1 && m0.tx != m1.tx+1 {
		return fmt.Errorf("meta pages of commits %d and %d", m0.tx, m1.tx)
	}
	m := m0
	if m1.tx > m0.tx {
		m = m1
	}
	if m.freelist != noFreelist || m.pages > 1<<40/pageSize {
		return fmt.Errorf("not written by sealane: %d pages, freelist in page %d", m.pages, m.freelist)
	}
	data, err := read(f, int(m.pages)*pageSize)
	if err != nil {
		return err
	}
	v := verifier{data: data, seen: make([]bool, m.pages)}
	return v.root(m.root)
}

// read reads the first n bytes of f.
func read(f *os.File, n int) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRead, err)
	}
	if st.Size() < int64(n) {
		return nil, fmt.Errorf("%d bytes where %d were written", st.Size(), n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, int64(n)), b); err != nil {
		return nil, fmt.Errorf("%w: %w", errRead, err)
	}
	return b, nil
}

type meta struct{ root, freelist, pages, tx uint64 }

func parseMeta(page []byte) (meta, error) {
	b := page[headerSize:]
	h := fnv.New64a()
	h.Write(b[:metaSummed])
	if u32(b) != metaMagic || u32(b[4:]) != metaVersion || u32(b[8:]) != pageSize || u64(b[metaSummed:]) != h.Sum64() {
		return meta{}, errors.New("a meta page is bad")
	}
	return meta{root: u64(b[16:]), freelist: u64(b[32:]), pages: u64(b[40:]), tx: u64(b[48:])}, nil
}

// verifier walks the tree. No page is entered twice, so it ends.
type verifier struct {
	data   []byte
	seen   []bool
	digest uint64
}

// bounds of keys: from (included) and to (excluded), nil for none.
type bounds struct{ from, to []byte }

func (b bounds) hold(key []byte) bool {
	return (b.from == nil || bytes.Compare(key, b.from) >= 0) && (b.to == nil || bytes.Compare(key, b.to) < 0)
}

// root visits the page that holds our bucket, and nothing else.
func (v *verifier) root(id uint64) error {
	p, err := v.page(id)
	if err != nil {
		return err
	}
	if p.flags() != flagLeaf || p.count() != 1 {
		return fmt.Errorf("page %d is not the root", id)
	}
	key, value, flags, ok := p.leaf(0)
	if !ok || string(key) != recordsBucket || flags != bucketLeaf || len(value) < bucketSize {
		return fmt.Errorf("page %d holds no bucket of records", id)
	}
	if records := u64(value); records != 0 {
		err = v.tree(records, bounds{}, 0)
	} else {
		err = v.leaves(page(value[bucketSize:]), bounds{})
	}
	if err == nil && v.digest != u64(value[8:]) {
		err = errors.New("records are missing")
	}
	return err
}

// deepest is far more than a tree of 2^28 pages needs.
const deepest = 64

func (v *verifier) tree(id uint64, within bounds, depth int) error {
	p, err := v.page(id)
	if err != nil {
		return err
	}
	if within.from != nil && !bytes.Equal(p.first(), within.from) { // bbolt finds a page that it changes in the branch by its first key
		return fmt.Errorf("page %d does not begin where its branch says", id)
	}
	if p.flags() == flagLeaf {
		return v.leaves(p, within)
	}
	if p.flags() != flagBranch || p.count() == 0 || depth == deepest {
		return fmt.Errorf("page %d is no branch", id)
	}
	for i := range p.count() {
		key, child, ok := p.branch(i)
		if !ok || !within.hold(key) {
			return fmt.Errorf("page %d: branch %d is bad", id, i)
		}
		below := bounds{from: key, to: within.to}
		if i+1 < p.count() {
			next, _, ok := p.branch(i + 1)
			if !ok || bytes.Compare(next, key) <= 0 {
				return fmt.Errorf("page %d: branch %d is out of order", id, i+1)
			}
			below.to = next
		}
		if err := v.tree(child, below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) leaves(p page, within bounds) error {
	if len(p) < headerSize || p.flags() != flagLeaf {
		return errors.New("a page of records is bad")
	}
	var last []byte
	for i := range p.count() {
		key, stored, flags, ok := p.leaf(i)
		if !ok || flags != 0 || !within.hold(key) || last != nil && bytes.Compare(key, last) <= 0 {
			return fmt.Errorf("page %d: record %d is out of place", p.id(), i)
		}
		if _, ok := unseal(key, stored); !ok {
			return fmt.Errorf("page %d: record %d is not what was written", p.id(), i)
		}
		v.digest += weight(stored)
		last = key
	}
	return nil
}

// page returns a page with those that continue it.
func (v *verifier) page(id uint64) (page, error) {
	if id < 2 || id >= uint64(len(v.seen)) {
		return nil, fmt.Errorf("page %d does not exist", id)
	}
	p := page(v.data[id*pageSize:])
	pages := 1 + uint64(p.overflow())
	if p.id() != id || id+pages > uint64(len(v.seen)) {
		return nil, fmt.Errorf("page %d is bad", id)
	}
	for i := id; i < id+pages; i++ {
		if v.seen[i] {
			return nil, fmt.Errorf("page %d is in use twice", i)
		}
		v.seen[i] = true
	}
	return p[:pages*pageSize], nil
}

type page []byte

func (p page) id() uint64       { return u64(p) }
func (p page) flags() uint16    { return binary.NativeEndian.Uint16(p[8:]) }
func (p page) count() int       { return int(binary.NativeEndian.Uint16(p[10:])) }
func (p page) overflow() uint32 { return u32(p[12:]) }

func (p page) leaf(i int) (key, value []byte, flags uint32, ok bool) {
	e := p.element(i)
	if e == nil {
		return nil, nil, 0, false
	}
	at, keySize, valueSize := uint64(u32(e[4:])), uint64(u32(e[8:])), uint64(u32(e[12:]))
	if keySize == 0 || at+keySize+valueSize > uint64(len(e)) {
		return nil, nil, 0, false
	}
	return e[at : at+keySize], e[at+keySize : at+keySize+valueSize], u32(e), true
}

func (p page) branch(i int) (key []byte, child uint64, ok bool) {
	e := p.element(i)
	if e == nil {
		return nil, 0, false
	}
	at, size := uint64(u32(e)), uint64(u32(e[4:]))
	if size == 0 || at+size > uint64(len(e)) {
		return nil, 0, false
	}
	return e[at : at+size], u64(e[8:]), true
}

// first is the first key of a page, nil when it has none.
func (p page) first() []byte {
	if p.flags() == flagBranch {
		key, _, _ := p.branch(0)
		return key
	}
	key, _, _, _ := p.leaf(0)
	return key
}

// element is the page from its i'th element on, nil when it has no room for it.
func (p page) element(i int) []byte {
	at := headerSize + i*elementSize
	if at+elementSize > len(p) {
		return nil
	}
	return p[at:]
}

func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }
