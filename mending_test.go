package sealane_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

// Every pair of stores, or of a store and the world, that can come to disagree is in a table of the architecture with the tests that show
// how it is mended: each of them exists.
func TestMendingTable(t *testing.T) {
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| what does not fit | mended by | shown by |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")[1:]
	if !found || len(rows) < 7 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	name := regexp.MustCompile("`([a-z/]*)\\.?(Test\\w+)`")
	tests := map[string]map[string]bool{} // by directory
	for _, row := range rows {
		shown := name.FindAllStringSubmatch(row[strings.LastIndex(strings.TrimSuffix(row, "|"), "|"):], -1)
		if len(shown) == 0 {
			t.Errorf("no test shows %s", row)
		}
		for _, s := range shown {
			if tests[s[1]] == nil {
				tests[s[1]] = testsIn(t, s[1])
			}
			if !tests[s[1]][s[2]] {
				t.Errorf("there is no %s in %q, which shows %s", s[2], s[1], row)
			}
		}
	}
}

// testsIn are the tests in a directory of the module.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, is := d.(*ast.FuncDecl); is && f.Recv == nil {
				all[f.Name.Name] = true
			}
		}
	}
	return all
}

// The disk has an older root store than the run store knows: an endpoint whose network is not in it is wanted no more. What the kernel and
// the firewall have of it goes by what is held, and its sandbox joins others.
func TestNetworkGoneFromRoot(t *testing.T) {
	m, ctx := started(t), t.Context()
	box, err := m.CreateSandbox(ctx, sandbox.Spec{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	before := m.state()
	blue := m.made(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: ipamOf("10.1.0.0/24", "fd00:1::/64")})
	ep, err := blue.CreateEndpoint(ctx, endpoint.Spec{Name: "web", For: box.ID(), Publish: ports(t, "8080:80")})
	if err == nil {
		err = ep.Join(ctx, box)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	m.root = datastore.NewMemory() // a backup of before the network
	m.restart()
	if d := cmp.Diff(before, m.state()); d != "" {
		t.Errorf("left of it (-before +now):\n%s", d)
	}
	for e := range m.Endpoints(ctx, box.ID()) {
		t.Errorf("the sandbox has %s yet", e.Spec.Name)
	}
	if left := storetest.Keys(t, m.run, "ep/"+string(blue.ID()), "name/ep/"+string(blue.ID()), "held", "member/"+string(box.ID())); len(left) > 0 {
		t.Errorf("left in the run store: %v", left)
	}
	m.boxed(sandbox.Spec{Name: "other"}, endpoint.Spec{}, m.made(sealane.NetworkSpec{Name: "blue", IPAM: ipamOf("10.1.0.0/24")}))
}
