package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// unit is what a row counts in.
type unit int

const (
	duration  unit = iota // less is better
	perSecond             // more is better
	bytes
	count
)

// goal is what a row must reach.
type goal struct {
	text   string
	figure func(row) float64
	most   bool // the figure may not be above limit, else not below
	limit  float64
}

// atMost limits sealane's figure to so many times that of another.
func atMost(times float64, other, text string) goal {
	return goal{text: text, figure: func(r row) float64 { return r.ratio("sealane", other) }, most: true, limit: times}
}

// atMostFloor limits sealane's figure to so many times the floor's.
func atMostFloor(times float64) goal {
	return atMost(times, "floor", fmt.Sprintf("≤ %g × floor", times))
}

// atLeastFloor is for rates.
func atLeastFloor(times float64) goal {
	return goal{text: fmt.Sprintf("≥ %g × floor", times), figure: func(r row) float64 { return r.ratio("sealane", "floor") }, limit: times}
}

// atLeastMoby wants sealane to be so many times faster.
func atLeastMoby(times float64) goal {
	return goal{text: fmt.Sprintf("≥ %g × moby", times), figure: func(r row) float64 { return r.faster("sealane") }, limit: times}
}

// under limits the figure itself.
func under(limit float64, text string) goal {
	return goal{text: text, figure: func(r row) float64 { return r.value("sealane") }, most: true, limit: limit}
}

// verdict is "yes", "NO", or "–" when it was not measured.
func (g goal) verdict(r row) string {
	v := g.figure(r)
	switch {
	case math.IsNaN(v):
		return "–"
	case v == g.limit || (v < g.limit) == g.most:
		return "yes"
	}
	return "NO"
}

// value is the median of the runs, NaN when there is none.
func (r row) value(of string) float64 {
	var list []float64
	for _, v := range r.runs {
		if x, ok := v[of]; ok {
			list = append(list, x)
		}
	}
	return median(list)
}

// ratio is the median of the runs' ratios, NaN when there is none.
func (r row) ratio(a, b string) float64 {
	var list []float64
	for _, v := range r.runs {
		x, isX := v[a]
		y, isY := v[b]
		if isX && isY && y != 0 {
			list = append(list, x/y)
		}
	}
	return median(list)
}

// faster says how many times faster, or smaller, than moby a subject is. No goal can be beyond what the floor is.
func (r row) faster(who string) float64 {
	if r.unit == perSecond {
		return r.ratio(who, "moby")
	}
	return r.ratio("moby", who)
}

func printTable(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join([]string{"work", "floor", "sealane", "miekg", "moby", "sealane:floor", "faster than moby", "floor than moby", "goal", "ok"}, "\t"))
	for _, r := range rows {
		cells := []string{r.work}
		for _, subject := range []string{"floor", "sealane", "miekg", "moby"} {
			cells = append(cells, r.unit.format(r.value(subject)))
		}
		cells = append(cells, times(r.ratio("sealane", "floor")), times(r.faster("sealane")), times(r.faster("floor")))
		if len(r.goals) == 0 {
			fmt.Fprintln(t, strings.Join(append(cells, "", ""), "\t"))
		}
		for _, g := range r.goals {
			fmt.Fprintln(t, strings.Join(append(cells, g.text, g.verdict(r)), "\t"))
			cells = make([]string, len(cells)) // further goals are on lines of their own
		}
	}
	t.Flush()
}

func times(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case v >= 10:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (u unit) format(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	switch u {
	case perSecond:
		return fmt.Sprintf("%.0f/s", v)
	case bytes:
		return fmt.Sprintf("%.1f KB", v/1024)
	case count:
		return fmt.Sprintf("%.1f", v)
	}
	switch d := time.Duration(v * float64(time.Second)); {
	case v < 1e-6:
		return fmt.Sprintf("%.1f ns", v*1e9)
	case d < 100*time.Microsecond:
		return fmt.Sprintf("%.1f µs", v*1e6)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", v*1e6)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.2f ms", v*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", v*1e3)
	}
	return fmt.Sprintf("%.2f s", v)
}
