package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// bench is how thoroughly to measure, and the subjects at work.
type bench struct {
	rounds, runs, crowd int
	subjects            []string
	profile             string // directory; "": none are made
	progress            io.Writer
	children            []*child
}

// section is rows that are measured together.
type section struct {
	name string
	open func(*bench) (measure, error) // starts the subjects
}

// measure is one run: it always gives the same rows in the same order.
type measure func() ([]row, error)

// row is one line of the table.
type row struct {
	work  string
	unit  unit
	runs  []values
	goals []goal
}

// values are what one run gave, by subject. What is not there was not measured.
type values map[string]float64

const perRound = 10 // calls of one subject before it is another's turn

// measure does the runs of a section and joins their rows.
func (b *bench) measure(s section) ([]row, error) {
	defer b.stopAll()
	fmt.Fprintf(b.progress, "%s: getting ready\n", s.name)
	once, err := s.open(b)
	if err != nil {
		return nil, err
	}
	var joined []row
	const patience = 3 // runs that may be thrown away
	for done, thrown := 0, 0; done < b.runs; {
		before, err := readCPU()
		if err != nil {
			return nil, err
		}
		rows, err := once()
		if err != nil {
			return nil, err
		}
		after, err := readCPU()
		if err != nil {
			return nil, err
		}
		steal := after.stealSince(before)
		if steal > maxSteal && thrown < patience {
			thrown++
			fmt.Fprintf(b.progress, "%s: a run is thrown away: %.0f %% steal\n", s.name, 100*steal)
			continue
		}
		if steal > maxSteal {
			return nil, fmt.Errorf("the machine is too busy: %.0f %% steal in %d runs", 100*steal, thrown+1)
		}
		done++
		fmt.Fprintf(b.progress, "%s: run %d of %d, %.0f %% steal\n", s.name, done, b.runs, 100*steal)
		if joined == nil {
			joined = rows
			continue
		}
		for i := range joined {
			joined[i].runs = append(joined[i].runs, rows[i].runs...)
		}
	}
	return joined, nil
}

// start starts those of the named subjects that take part, in order.
func (b *bench) start(mode Mode, names ...string) ([]*child, error) {
	var out []*child
	for _, name := range names {
		if !slices.Contains(b.subjects, name) {
			continue
		}
		c, err := startChild(name, mode, b.profile)
		if err != nil {
			return nil, err
		}
		b.children = append(b.children, c)
		out = append(out, c)
	}
	return out, nil
}

func (b *bench) stopAll() {
	for _, c := range b.children {
		c.stop()
	}
	b.children = nil
}

const maxSteal = 0.15

// cpu is what the processors did since the machine was started, in ticks.
type cpu struct{ all, steal float64 }

func readCPU() (cpu, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpu{}, err
	}
	return parseCPU(string(stat))
}

// parseCPU reads the first line of /proc/stat: user nice system idle iowait irq softirq steal guest guest_nice, where the first two
// hold the last two.
func parseCPU(stat string) (c cpu, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return c, fmt.Errorf("/proc/stat: no steal in %q", line)
	}
	for i, f := range fields[1:9] {
		var ticks float64
		if _, err := fmt.Sscan(f, &ticks); err != nil {
			return c, fmt.Errorf("/proc/stat: %q: %w", line, err)
		}
		c.all += ticks
		if i == 7 {
			c.steal = ticks
		}
	}
	return c, nil
}

// stealSince is the part of the time that the hypervisor took.
func (c cpu) stealSince(before cpu) float64 {
	if c.all <= before.all {
		return 0
	}
	return (c.steal - before.steal) / (c.all - before.all)
}

// median is NaN of nothing.
func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(list))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

func seconds(list []time.Duration) (out []float64) {
	for _, d := range list {
		out = append(out, d.Seconds())
	}
	return out
}
