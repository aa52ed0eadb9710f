package bolt_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/bolt"
)

// A process that is killed while it writes leaves a good file with everything it was told is committed. The process is this test
// again.
func TestKilled(t *testing.T) {
	if path := os.Getenv("BOLT_TEST_WRITE"); path != "" {
		writeOn(t, path)
		return
	}
	path := filepath.Join(memory(t), "store.db")
	last := 0
	for round := range 10 {
		writer := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		writer.Env = append(os.Environ(), "BOLT_TEST_WRITE="+path)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatalf("the writer says %q", lines.Text())
			}
			if last = n; n%100 == 0 {
				time.AfterFunc(time.Duration(round)*37*time.Microsecond, func() { writer.Process.Kill() })
			}
		}
		if err := writer.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		s := open(t, path, bolt.Options{NoSync: true})
		got, err := content(s, "d")
		n, _ := strconv.Atoi(strings.TrimLeft(got["d/last"], "x"))
		if err != nil || n < last || n > last+1 {
			t.Fatalf("round %d: %d is committed, the file says %d, %v", round, last, n, err)
		}
		if len(got) != 1+min(n, 50) {
			t.Fatalf("round %d: %d records after %d commits", round, len(got), n)
		}
		last = n
		s.Close()
	}
}

// writeOn commits one number after the other and tells each.
func writeOn(t *testing.T, path string) {
	s := open(t, path, bolt.Options{NoSync: true})
	got, err := content(s, "d")
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimLeft(got["d/last"], "x"))
	for {
		n++
		if err := s.Update(context.Background(), func(tx datastore.Tx) error {
			number := strings.Repeat("x", 500) + strconv.Itoa(n)
			if err := tx.Put("d/last", []byte(number)); err != nil {
				return err
			}
			if n > 50 {
				if err := tx.Delete("d/k" + strconv.Itoa(n-50)); err != nil {
					return err
				}
			}
			return tx.Put("d/k"+strconv.Itoa(n), []byte(number))
		}); err != nil {
			t.Fatal(err)
		}
		fmt.Println(n)
	}
}
