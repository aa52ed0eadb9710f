package main

import "fmt"

// sections is all that can be measured.
func sections() []section {
	return []section{
		{"attach", attachRows},
		{"pool", poolRows},
		{"publish", publishRows},
		{"crowd4", func(b *bench) (measure, error) { return crowdRows(b, Mode{Ports: 1, Silent: true}) }},
		{"crowd6", func(b *bench) (measure, error) { return crowdRows(b, Mode{Ports: 1, Silent: true, IPv6: true}) }},
		{"burst", burstRows},
		{"churn", churnRows},
		{"overlay", overlayRows},
		{"cluster", clusterRows},
		{"ipam", ipamRows},
		{"restart", restartRows},
		{"usage", usageRows},
		{"names", namesRows},
		{"docker", dockerRows},
		{"verbs", verbRows},
		{"named", namedRows},
		{"resolver", resolverRows},
		{"flood", floodRows},
	}
}

func (m Mode) families() string {
	if m.IPv6 {
		return "both families"
	}
	return "IPv4"
}

// turns has each subject attach and detach ten in turn, round by round, and gives the medians of both.
func (b *bench) turns(children []*child) (attach, detach values, err error) {
	attached, detached := make(map[string][]float64), make(map[string][]float64)
	for range b.rounds {
		for _, c := range children {
			if _, err := c.do(order{Do: "prepare", N: perRound}); err != nil {
				return nil, nil, err
			}
			in, err := c.do(order{Do: "attach", N: perRound})
			if err != nil {
				return nil, nil, err
			}
			out, err := c.do(order{Do: "detach", N: perRound})
			if err != nil {
				return nil, nil, err
			}
			attached[c.name] = append(attached[c.name], seconds(in.Each)...)
			detached[c.name] = append(detached[c.name], seconds(out.Each)...)
		}
	}
	return medians(attached), medians(detached), nil
}

func medians(lists map[string][]float64) values {
	v := make(values)
	for name, list := range lists {
		v[name] = median(list)
	}
	return v
}

// attachRows measures the main work: a namespace, a network, one published port; and undoing it as the caller sees it.
func attachRows(b *bench) (measure, error) {
	modes := []Mode{{Ports: 1}, {Ports: 1, IPv6: true}}
	var subjects [][]*child
	for _, mode := range modes {
		children, err := b.start(mode, "floor", "sealane", "moby")
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, children)
	}
	return func() (rows []row, err error) {
		for i, mode := range modes {
			attach, detach, err := b.turns(subjects[i])
			if err != nil {
				return nil, err
			}
			delete(detach, "floor") // it drops a descriptor and leaves the rest to the kernel: see burst
			if own, ok := attach["sealane"]; ok {
				detach["our attach"] = own
			}
			rows = append(rows,
				row{work: "attach with a port, " + mode.families(), runs: []values{attach}, goals: []goal{atMostFloor(1.5), atLeastMoby(25)}},
				row{work: "detach, as the caller sees it, " + mode.families(), runs: []values{detach}, goals: []goal{atMost(0.7, "our attach", "≤ 0.7 × our attach")}})
		}
		return rows, nil
	}, nil
}

// poolRows compares the same from a pool of ready namespaces with the floor that makes its own.
func poolRows(b *bench) (measure, error) {
	modes := []Mode{{Ports: 1}, {Ports: 1, IPv6: true}}
	var subjects [][]*child
	for _, mode := range modes {
		floor, err := b.start(mode, "floor")
		if err != nil {
			return nil, err
		}
		mode.Pool = true
		pooled, err := b.start(mode, "sealane")
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, append(floor, pooled...))
	}
	reference, err := b.start(Mode{Pool: true}, "floor")
	if err != nil {
		return nil, err
	}
	return func() (rows []row, err error) {
		for i, mode := range modes {
			attach, _, err := b.turns(subjects[i])
			if err != nil {
				return nil, err
			}
			rows = append(rows, row{work: "attach with a port from a pool, " + mode.families(), runs: []values{attach}, goals: []goal{atMostFloor(0.8)}})
		}
		attach, _, err := b.turns(reference)
		return append(rows, row{work: "the floor itself from a pool, IPv4", runs: []values{attach}}), err
	}, nil
}

// publishRows adds ports to a sandbox that runs, one at a time while others have 0, 1,000 and 5,000, and 1,000 at once.
func publishRows(b *bench) (measure, error) {
	children, err := b.start(Mode{IPv6: true}, "floor", "sealane")
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		if _, err := c.do(order{Do: "attach", N: 2}); err != nil {
			return nil, err
		}
	}
	return func() (rows []row, err error) {
		bulk, empty, loaded := make(map[string][]float64), 0.0, 0
		for _, present := range []int{0, 1000, 5000} {
			for ; loaded < present; loaded += 1000 {
				for _, c := range children {
					r, err := c.do(order{Do: "load", N: 1000})
					if err != nil {
						return nil, err
					}
					bulk[c.name] = append(bulk[c.name], r.Total.Seconds())
				}
			}
			one, err := b.publishTurns(children)
			if err != nil {
				return nil, err
			}
			r := row{work: fmt.Sprintf("one published port more, %d present", present), runs: []values{one}, goals: []goal{under(60e-6, "≤ 60 µs")}}
			if present == 0 {
				empty = one["sealane"]
			} else if empty > 0 {
				one["with none"] = empty
				r.goals = append(r.goals, atMost(1.2, "with none", "≤ 1.2 × with none"))
			}
			rows = append(rows, r)
		}
		for _, c := range children {
			if _, err := c.do(order{Do: "unload"}); err != nil {
				return nil, err
			}
		}
		return append(rows, row{work: "1,000 published ports in one call", runs: []values{medians(bulk)}, goals: []goal{under(20e-3, "< 20 ms")}}), nil
	}, nil
}

func (b *bench) publishTurns(children []*child) (values, error) {
	took := make(map[string][]float64)
	for range b.rounds {
		for _, c := range children {
			r, err := c.do(order{Do: "publish", N: perRound})
			if err != nil {
				return nil, err
			}
			took[c.name] = append(took[c.name], seconds(r.Each)...)
		}
	}
	return medians(took), nil
}

// crowdRows attaches to a bridge that has many ports.
func crowdRows(b *bench, mode Mode) (measure, error) {
	children, err := b.start(mode, "floor", "sealane", "moby")
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		for left := b.crowd; left > 0; left -= 100 {
			if _, err := c.do(order{Do: "attach", N: min(left, 100)}); err != nil {
				return nil, err
			}
			fmt.Fprintf(b.progress, "%s: %d endpoints to go\n", c.name, left)
		}
	}
	return func() ([]row, error) {
		attach, detach, err := b.turns(children)
		delete(detach, "floor")
		return []row{
			{work: fmt.Sprintf("attach with a port beside %d, %s", b.crowd, mode.families()), runs: []values{attach}, goals: []goal{atMostFloor(1.5), atLeastMoby(50)}},
			{work: fmt.Sprintf("detach beside %d, %s", b.crowd, mode.families()), runs: []values{detach}},
		}, err
	}, nil
}

// burstRows detaches many at once and waits until the kernel has let go of their devices.
func burstRows(b *bench) (measure, error) {
	const burst = 200
	children, err := b.start(Mode{Ports: 1, IPv6: true}, "floor", "sealane")
	if err != nil {
		return nil, err
	}
	return func() ([]row, error) {
		took := make(map[string][]float64)
		for range max(b.rounds/3, 1) {
			for _, c := range children {
				if _, err := c.do(order{Do: "attach", N: burst}); err != nil {
					return nil, err
				}
				r, err := c.do(order{Do: "detach", N: burst})
				if err != nil {
					return nil, err
				}
				took[c.name] = append(took[c.name], r.Total.Seconds()/burst)
			}
		}
		return []row{{work: fmt.Sprintf("devices gone after a detach, each of %d", burst), runs: []values{medians(took)}, goals: []goal{atMostFloor(1.5)}}}, nil
	}, nil
}

// churnRows attaches and detaches without pause, by several goroutines, until all is gone.
func churnRows(b *bench) (measure, error) {
	children, err := b.start(Mode{Ports: 1}, "floor", "sealane", "moby")
	if err != nil {
		return nil, err
	}
	return func() (rows []row, err error) {
		for _, g := range []int{1, 2, 4, 8} {
			rates := make(map[string][]float64)
			for range max(b.rounds/3, 1) {
				for _, c := range children {
					n := 1000
					if c.name == "moby" {
						n = 5 * (g + 1)
					}
					r, err := c.do(order{Do: "churn", N: n, G: g})
					if err != nil {
						return nil, err
					}
					rates[c.name] = append(rates[c.name], float64(n)/r.Total.Seconds())
				}
			}
			rows = append(rows, row{work: fmt.Sprintf("create and delete without pause, drained, by %d", g), unit: perSecond, runs: []values{medians(rates)}, goals: []goal{atLeastFloor(0.6), atLeastMoby(30)}})
		}
		return rows, nil
	}, nil
}

// restartRows starts a new daemon beside what runs.
func restartRows(b *bench) (measure, error) {
	children, err := b.start(Mode{Ports: 1, IPv6: true}, "sealane")
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		if _, err := c.do(order{Do: "attach", N: b.crowd}); err != nil {
			return nil, err
		}
	}
	return func() ([]row, error) {
		took := make(map[string][]float64)
		for range max(b.rounds/3, 1) {
			for _, c := range children {
				r, err := c.do(order{Do: "restart"})
				if err != nil {
					return nil, err
				}
				took[c.name] = append(took[c.name], r.Total.Seconds())
			}
		}
		return []row{{work: fmt.Sprintf("start with %d endpoints running", b.crowd), runs: []values{medians(took)}, goals: []goal{under(1, "< 1 s")}}}, nil
	}, nil
}

// usageRows says what a sandbox with a port costs its daemon.
func usageRows(b *bench) (measure, error) {
	const many = 400 // pages of the program that are met for the first time meanwhile are shared out among them
	return func() ([]row, error) {
		defer b.stopAll() // memory is not given back well: each run has fresh processes
		children, err := b.start(Mode{Ports: 1}, "floor", "sealane", "moby")
		if err != nil {
			return nil, err
		}
		memory, descriptors, goroutines := make(values), make(values), make(values)
		for _, c := range children {
			if _, err := c.do(order{Do: "attach", N: 100}); err != nil { // what the first ones cost is not each one's
				return nil, err
			}
			before, err := c.do(order{Do: "usage"})
			if err != nil {
				return nil, err
			}
			if _, err := c.do(order{Do: "attach", N: many}); err != nil {
				return nil, err
			}
			after, err := c.do(order{Do: "usage"})
			if err != nil {
				return nil, err
			}
			memory[c.name] = float64(after.Usage.Resident-before.Usage.Resident) / many
			descriptors[c.name] = float64(after.Usage.Descriptors-before.Usage.Descriptors) / many
			goroutines[c.name] = float64(after.Usage.Goroutines-before.Usage.Goroutines) / many
		}
		return []row{
			{work: "resident memory of a sandbox", unit: bytes, runs: []values{memory}, goals: []goal{under(8<<10, "≤ 8 KB")}},
			{work: "descriptors of a sandbox with a port", unit: count, runs: []values{descriptors}, goals: []goal{under(3, "≤ 3")}},
			{work: "goroutines of a sandbox", unit: count, runs: []values{goroutines}, goals: []goal{under(0, "0")}},
		}, nil
	}, nil
}
