package sealane_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The architecture as a test: which package may import which, and the rules of CONTRIBUTING.md that a machine can check. What is
// excepted stands in a list with its reason; an entry that excuses nothing is a failure too.

const module = "github.com/sealane/sealane"

// floors: a package imports lower floors only, never its own. A new package needs a line here.
var floors = map[string]int{
	"sandbox":   0,
	"ipam":      0,
	"datastore": 0,
	"firewall":  0,

	"endpoint": 1,

	"netdriver": 2,
	"resolver":  2,

	"datastore/bolt":    3,
	"datastore/consul":  3,
	"datastore/etcd":    3,
	"drivers/bridge":    3,
	"drivers/overlay":   3,
	"drivers/host":      3,
	"drivers/null":      3,
	"firewall/nftables": 3,
	"ipam/block":        3,
	"ipam/null":         3,
	"ipam/pool":         3,
	"remote":            3,
	"resolver/dns":      3,
	"sandbox/netns":     3,

	"drivers": 4,
	".":       4,

	"api":    5,
	"docker": 5,

	"cmd/sealane":            6,
	"examples/docker-plugin": 6,
	"examples/overlay":       6,
	"examples/quickstart":    6,
	"examples/runtime":       6,
}

// kits are the conformance suites that live beside their contract, and its honest fakes. They stand on the contract's floor, may
// import it, and are imported by tests and other kits only.
var kits = map[string]int{
	"datastore/storetest":   0,
	"firewall/firewalltest": 0,
	"ipam/ipamtest":         0,
	"sandbox/sandboxtest":   0,
	"netdriver/drivertest":  2,
	"resolver/resolvertest": 2,
}

// The root ties the contracts together: rooms come from its Options.
const highestOfRoot = 2

// fixed are the folders that the project's owner named.
var fixed = []string{"sandbox", "endpoint", "netdriver", "ipam", "drivers", "remote", "datastore", "examples"}

// absent are those of fixed that are not there yet.
var absent = exceptions{}

// kernel are imports by which a contract or the Controller would come to know the kernel, a protocol or a store.
var kernel = []string{"golang.org/x/sys", "github.com/vishvananda", "github.com/google/nftables", "go.etcd.io", "net/http", "os/exec"}

// state is package-level variables that are not changed after they are made.
var state = exceptions{
	"firewall/nftables.ifname":  "a row of nft's table of data types",
	"firewall/nftables.nfproto": "a row of nft's table of data types",
	"firewall/nftables.ipv4":    "a row of nft's table of data types",
	"firewall/nftables.ipv6":    "a row of nft's table of data types",
	"firewall/nftables.l4proto": "a row of nft's table of data types",
	"firewall/nftables.service": "a row of nft's table of data types",
	"firewall/nftables.mark":    "a row of nft's table of data types",
	"firewall/nftables.verdict": "a row of nft's table of data types",
	"firewall/nftables.vni":     "a row of nft's table of data types",
	"ipam/ipamtest.mac":         "an address that the tests hand over and nobody writes to",
	"remote.validName":          "a compiled pattern",
	"sealane.validName":         "a compiled pattern",
}

// long is functions of more than maxLines.
var long = exceptions{}

// sleeps is functions that call time.Sleep.
var sleeps = exceptions{
	"sandbox/sandboxtest.eventually": "asks again for what a room does in the background and tells nobody",
}

// logs is packages below the Controller that log.
var logs = exceptions{}

// programs is packages, apart from commands, examples and test kits, that may start programs.
var programs = exceptions{
	"internal/holder":     "the resolver's sockets outlive the daemon in a process of ours",
	"internal/nstest":     "test hosts check with ip, nft and ping",
	"internal/servertest": "tests of stores run against real servers",
	"internal/vm":         "QEMU, and what the first process of a machine is told to run",
}

const (
	maxLines   = 60
	maxMethods = 8
)

// exceptions say why something may break a rule.
type exceptions map[string]string

// excuse fails for what is found and not listed, and for what is listed and not found.
func (e exceptions) excuse(t *testing.T, found map[string]string, rule string) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if e[key] == "" {
			t.Errorf("%s: %s: %s", found[key], key, rule)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e)) {
		if _, ok := found[key]; !ok {
			t.Errorf("the exception of %s (%s) is not needed any more", key, e[key])
		}
	}
}

func TestArchitectureFloors(t *testing.T) {
	for _, p := range packages(t) {
		floor, isKit, known := floorOf(p.short)
		if !known {
			t.Errorf("package %s is on no floor: add it to the table in arch_test.go", p.short)
			continue
		}
		for _, path := range p.Imports {
			other, ours := shorten(path)
			if !ours || isInternal(other) {
				continue
			}
			if isInternal(p.short) {
				t.Errorf("%s imports %s: what is internal helps everyone and knows nobody", p.short, other)
				continue
			}
			otherFloor, otherIsKit, _ := floorOf(other)
			beside := isKit && otherFloor == floor && !otherIsKit
			switch {
			case otherIsKit && !isKit:
				t.Errorf("%s imports the test kit %s", p.short, other)
			case otherFloor >= floor && !beside:
				t.Errorf("%s (floor %d) imports %s (floor %d): only lower floors may be imported", p.short, floor, other, otherFloor)
			case p.short == "." && otherFloor > highestOfRoot:
				t.Errorf("the root imports %s (floor %d): only floors 0 to %d, the rest is given in Options", other, otherFloor, highestOfRoot)
			}
		}
	}
}

func TestArchitectureFloorsHaveNoGhosts(t *testing.T) {
	there := make(map[string]bool)
	for _, p := range packages(t) {
		there[p.short] = true
	}
	for _, table := range []map[string]int{floors, kits} {
		for name := range table {
			if !there[name] {
				t.Errorf("package %s has a floor and does not exist", name)
			}
		}
	}
	missing := make(map[string]string)
	for _, dir := range fixed {
		if _, err := os.Stat(dir); err != nil {
			missing[dir] = "folder"
		}
	}
	absent.excuse(t, missing, "this folder is part of the layout")
}

func TestArchitectureContractsKnowNoKernel(t *testing.T) {
	for _, p := range packages(t) {
		floor, isKit, _ := floorOf(p.short)
		if isKit || isInternal(p.short) || floor > highestOfRoot && p.short != "." {
			continue
		}
		for _, path := range p.Imports {
			if slices.ContainsFunc(kernel, func(k string) bool { return path == k || strings.HasPrefix(path, k+"/") }) {
				t.Errorf("%s imports %s: that is a room's work", p.short, path)
			}
		}
	}
}

func TestArchitectureNames(t *testing.T) {
	for _, p := range packages(t) {
		switch p.Name {
		case "util", "utils", "common", "types", "manager", "helper", "helpers", "misc":
			t.Errorf("package %s: the name %s says nothing", p.short, p.Name)
		}
	}
}

func TestArchitectureOnlyCommandsStartPrograms(t *testing.T) {
	found := make(map[string]string)
	for _, p := range packages(t) {
		if _, isKit := kits[p.short]; isKit || strings.HasPrefix(p.short, "cmd/") || strings.HasPrefix(p.short, "examples/") {
			continue
		}
		for _, f := range p.product {
			for _, i := range f.syntax.Imports {
				if i.Path.Value == `"os/exec"` {
					found[p.short] = f.at(i)
				}
			}
			for _, name := range []string{"os.StartProcess", "syscall.ForkExec", "syscall.StartProcess", "syscall.Exec", "unix.Exec"} {
				for _, call := range f.uses(name) {
					found[p.short] = f.at(call)
				}
			}
		}
	}
	programs.excuse(t, found, "starts programs")
}

func TestArchitectureNoLogsBelowTheController(t *testing.T) {
	found := make(map[string]string)
	for _, p := range packages(t) {
		if floor, isKit, _ := floorOf(p.short); isKit || floor >= 4 {
			continue
		}
		for _, f := range p.product {
			for _, i := range f.syntax.Imports {
				if i.Path.Value == `"log"` || i.Path.Value == `"log/slog"` {
					found[p.short] = f.at(i)
				}
			}
		}
	}
	logs.excuse(t, found, "logs: return an error or an event, the Controller tells")
}

func TestArchitectureNoMutableState(t *testing.T) {
	found := make(map[string]string)
	eachDecl(t, func(p *pkg, f *file, d ast.Decl) {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.VAR {
			return
		}
		for _, spec := range group.Specs {
			v := spec.(*ast.ValueSpec)
			for i, name := range v.Names {
				if name.Name != "_" && !(i < len(v.Values) && isSentinel(name.Name, v.Values[i])) {
					found[p.key(name.Name)] = f.at(name)
				}
			}
		}
	})
	state.excuse(t, found, "a package-level variable: give it to the type that needs it, or list it with a reason")
}

// isSentinel says whether a variable is an error to compare with.
func isSentinel(name string, value ast.Expr) bool {
	call, ok := value.(*ast.CallExpr)
	if !ok || !strings.HasPrefix(strings.ToLower(name), "err") {
		return false
	}
	made := selector(call.Fun)
	return made == "errors.New" || made == "fmt.Errorf"
}

func TestArchitectureFunctions(t *testing.T) {
	tooLong := make(map[string]string)
	eachDecl(t, func(p *pkg, f *file, d ast.Decl) {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			return
		}
		if fn.Recv == nil && fn.Name.Name == "init" {
			t.Errorf("%s: init: what happens by importing cannot be seen, tested or undone", f.at(fn))
		}
		if _, isKit := kits[p.short]; !isKit && f.lines(fn) > maxLines {
			tooLong[p.key(funcName(fn))] = fmt.Sprintf("%s: %d lines", f.at(fn), f.lines(fn))
		}
	})
	long.excuse(t, tooLong, fmt.Sprintf("more than %d lines", maxLines))
}

func TestArchitectureInterfaces(t *testing.T) {
	all := make(map[string]*ast.InterfaceType) // by package and name
	files := make(map[*ast.InterfaceType]*file)
	owners := make(map[*ast.InterfaceType]*pkg)
	eachDecl(t, func(p *pkg, f *file, d ast.Decl) {
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				if i, ok := n.Type.(*ast.InterfaceType); ok {
					all[p.key(n.Name.Name)] = i
				}
			case *ast.InterfaceType:
				files[n], owners[n] = f, p
			}
			return true
		})
	})
	var count func(i *ast.InterfaceType) int
	count = func(i *ast.InterfaceType) (n int) {
		for _, m := range i.Methods.List {
			if len(m.Names) > 0 {
				n += len(m.Names)
				continue
			}
			if embedded := all[files[i].resolve(owners[i], m.Type)]; embedded != nil {
				n += count(embedded)
			} else {
				n++ // one of the standard library's, such as error
			}
		}
		return n
	}
	for i, f := range files {
		if n := count(i); n > maxMethods {
			t.Errorf("%s: an interface of %d methods: more than %d", f.at(i), n, maxMethods)
		}
	}
}

func TestArchitectureDocComments(t *testing.T) {
	eachDecl(t, func(p *pkg, f *file, d ast.Decl) {
		if p.Name == "main" {
			return
		}
		for _, name := range undocumented(d) {
			t.Errorf("%s: %s is exported and has no comment", f.at(d), name)
		}
	})
	for _, p := range packages(t) {
		if !slices.ContainsFunc(p.product, func(f *file) bool { return f.syntax.Doc != nil }) {
			t.Errorf("package %s has no comment that says in a sentence what it is", p.short)
		}
	}
}

// undocumented lists the exported names of a declaration that nothing is said about. A comment on a group of constants or variables, or
// at the end of the line, will do. What errors and printing ask of every type explains itself.
func undocumented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		wellKnown := d.Recv != nil && slices.Contains([]string{"Error", "Unwrap", "Is", "String"}, d.Name.Name)
		if d.Doc == nil && d.Name.IsExported() && !wellKnown && (d.Recv == nil || ast.IsExported(receiver(d))) {
			names = append(names, funcName(d))
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && (d.Doc == nil || d.Lparen.IsValid()) {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}

func TestArchitectureNobodySleeps(t *testing.T) {
	found := make(map[string]string)
	for _, p := range packages(t) {
		for _, f := range slices.Concat(p.product, p.tests) {
			for _, d := range f.syntax.Decls {
				for _, call := range f.usesIn(d, "time.Sleep") {
					name := "package"
					if fn, ok := d.(*ast.FuncDecl); ok {
						name = funcName(fn)
					}
					found[p.key(name)] = f.at(call)
				}
			}
		}
	}
	sleeps.excuse(t, found, "sleeps: wait for the event")
}

// pkg is a package of the module with its syntax.
type pkg struct {
	Name, ImportPath, Dir                       string
	Imports, GoFiles, TestGoFiles, XTestGoFiles []string

	short          string // path below the module, "." for the root
	product, tests []*file
}

// key names something of the package in the lists of exceptions.
func (p *pkg) key(name string) string {
	if p.short == "." {
		return p.Name + "." + name
	}
	return p.short + "." + name
}

type file struct {
	set    *token.FileSet
	syntax *ast.File
}

// packages is the module with the syntax of every file.
func packages(t *testing.T) []*pkg {
	t.Helper()
	all, err := read()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// read reads the module once for all rules.
var read = sync.OnceValues(func() (all []*pkg, err error) {
	out, err := exec.Command("go", "list", "-json=Name,ImportPath,Dir,Imports,GoFiles,TestGoFiles,XTestGoFiles", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		if err := d.Decode(p); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		p.short, _ = shorten(p.ImportPath)
		if p.product, err = parse(p.Dir, p.GoFiles); err != nil {
			return nil, err
		}
		if p.tests, err = parse(p.Dir, slices.Concat(p.TestGoFiles, p.XTestGoFiles)); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, errors.New("go list found no package")
	}
	return all, nil
})

func parse(dir string, names []string) (files []*file, err error) {
	for _, name := range names {
		set := token.NewFileSet()
		syntax, err := parser.ParseFile(set, filepath.Join(dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, &file{set, syntax})
	}
	return files, nil
}

// eachDecl visits what is declared outside test files.
func eachDecl(t *testing.T, visit func(*pkg, *file, ast.Decl)) {
	t.Helper()
	for _, p := range packages(t) {
		for _, f := range p.product {
			for _, d := range f.syntax.Decls {
				visit(p, f, d)
			}
		}
	}
}

// at is where a node is.
func (f *file) at(n ast.Node) string {
	p := f.set.Position(n.Pos())
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, p.Filename); err == nil {
			p.Filename = rel
		}
	}
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

func (f *file) lines(n ast.Node) int {
	return f.set.Position(n.End()).Line - f.set.Position(n.Pos()).Line + 1
}

// uses are the places that name something of another package, such as "time.Sleep".
func (f *file) uses(name string) []ast.Node { return f.usesIn(f.syntax, name) }

func (f *file) usesIn(root ast.Node, name string) (nodes []ast.Node) {
	ast.Inspect(root, func(n ast.Node) bool {
		if e, ok := n.(*ast.SelectorExpr); ok && selector(e) == name {
			nodes = append(nodes, e)
		}
		return true
	})
	return nodes
}

// resolve gives the key of a type of ours.
func (f *file) resolve(p *pkg, e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return p.key(e.Name)
	case *ast.SelectorExpr:
		from, _ := e.X.(*ast.Ident)
		for _, i := range f.syntax.Imports {
			path, _ := shorten(strings.Trim(i.Path.Value, `"`))
			if path == "." {
				path = "sealane"
			}
			if from != nil && (i.Name != nil && i.Name.Name == from.Name || i.Name == nil && filepath.Base(path) == from.Name) {
				return path + "." + e.Sel.Name
			}
		}
	}
	return ""
}

// selector is "pkg.Name" of such an expression, else "".
func selector(e ast.Expr) string {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return x.Name + "." + s.Sel.Name
}

// funcName is "Name" or "Type.Name".
func funcName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	return receiver(d) + "." + d.Name.Name
}

// receiver is the name of the type that a method belongs to.
func receiver(d *ast.FuncDecl) string {
	e := d.Recv.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// shorten is the path below the module, and whether it is one of ours.
func shorten(path string) (short string, ours bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func isInternal(short string) bool { return strings.HasPrefix(short, "internal/") }

// floorOf looks a package up. What is internal is below all floors.
func floorOf(short string) (floor int, isKit, known bool) {
	if isInternal(short) {
		return -1, false, true
	}
	if floor, isKit = kits[short]; isKit {
		return floor, true, true
	}
	floor, known = floors[short]
	return floor, false, known
}
