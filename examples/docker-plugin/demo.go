package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The network that both engines join. sealane-overlay is the driver and gives the addresses; blue is its name on all hosts.
const create = "docker network create -d sealane-overlay --ipam-driver sealane-overlay -o network=blue --ipam-opt network=blue blue"

// run is the demo on hosts that it makes and removes.
func run(ctx context.Context, tools programs) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces are made by root only: run it with sudo")
	}
	if err := tools.find(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sealane-docker-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Printf("Two hosts, each with a Docker engine and sealane as its plugin, and Consul on the first. They are network namespaces made for\n" +
		"this demo: nothing on your machine changes.\n\n")
	one, err := newHost(filepath.Join(dir, "one"), "one", "192.0.2.1", tools)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, one.end()) }()
	two, err := newHost(filepath.Join(dir, "two"), "two", "192.0.2.2", tools)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, two.end()) }()
	if err := connect(one, two); err != nil {
		return err
	}
	if err := one.startConsul(ctx); err != nil {
		return err
	}
	for _, h := range []*host{one, two} {
		if err := h.startPlugin(ctx, "consul://192.0.2.1:8500"); err != nil {
			return err
		}
		if err := h.startEngine(ctx); err != nil {
			return err
		}
	}
	return demo(ctx, one, two)
}

// demo is what a user does.
func demo(ctx context.Context, one, two *host) error {
	fmt.Println("\nThe same command on both hosts joins the one network:")
	for _, h := range []*host{one, two} {
		if _, err := h.says(ctx, create); err != nil {
			return err
		}
	}
	gateway, err := one.says(ctx, "docker network inspect --format '{{range .IPAM.Config}}{{.Gateway}}{{end}}' blue")
	if err != nil {
		return err
	}
	fmt.Println("\nA web server on each, the first with a published port. Names of both hosts are known at the network's gateway:")
	if _, err := one.says(ctx, "docker run -d --name web --network blue --dns "+gateway+" -p 8080:80 box httpd -f -h /www"); err != nil {
		return err
	}
	if _, err := two.says(ctx, "docker run -d --name web2 --network blue --dns "+gateway+" box httpd -f -h /www"); err != nil {
		return err
	}
	first, err := one.says(ctx, "docker inspect --format {{.NetworkSettings.Networks.blue.IPAddress}} web")
	if err != nil {
		return err
	}
	second, err := two.says(ctx, "docker inspect --format {{.NetworkSettings.Networks.blue.IPAddress}} web2")
	if err != nil {
		return err
	}
	if first == second {
		return fmt.Errorf("both containers have %s", first)
	}
	if err := talk(ctx, one, two, first, second); err != nil {
		return err
	}
	if err := killed(ctx, one, two, first, second); err != nil {
		return err
	}
	return clean(ctx, one, two)
}

// talk shows that both containers, which are at these addresses, reach each other.
func talk(ctx context.Context, one, two *host, first, second string) error {
	for container, on := range map[string]*host{"web": one, "web2": two} {
		if err := on.finds(ctx, container, map[string]string{"web": "web2", "web2": "web"}[container]); err != nil {
			return err
		}
	}
	fmt.Println("\nThey reach each other, both ways, by name and by address, and the port is open to the other host:")
	for _, try := range []struct {
		on              *host
		command, expect string
	}{
		{two, "docker exec web2 ping -c 1 -W 2 web", " 0% packet loss"},
		{two, "docker exec web2 wget -q -O - http://web/", one.page()},
		{one, "docker exec web ping -c 1 -W 2 web2", " 0% packet loss"},
		{one, "docker exec web wget -q -O - http://web2/", two.page()},
		{two, "docker exec web2 ping -c 1 -W 2 " + first, " 0% packet loss"},
		{two, "docker exec web2 wget -q -O - http://" + first + "/", one.page()},
		{one, "docker exec web wget -q -O - http://" + second + "/", two.page()},
		{two, "busybox wget -q -O - http://192.0.2.1:8080/", one.page()},
	} {
		if err := try.on.expects(ctx, try.command, try.expect); err != nil {
			return err
		}
	}
	return nil
}

// killed shows that what runs needs no daemon, and that one that comes takes it over.
func killed(ctx context.Context, one, two *host, first, second string) error {
	fmt.Println("\nsealane is killed on both hosts, and started again: what runs goes on.")
	for _, h := range []*host{one, two} {
		if err := h.stop(h.plugin, os.Kill); err != nil {
			return err
		}
	}
	if err := one.expects(ctx, "docker exec web wget -q -O - http://"+second+"/", two.page()); err != nil {
		return err
	}
	for _, h := range []*host{one, two} {
		if err := h.startPlugin(ctx, "consul://192.0.2.1:8500"); err != nil {
			return err
		}
	}
	if err := two.expects(ctx, "docker run --rm --network blue box wget -q -O - http://"+first+"/", one.page()); err != nil {
		return err
	}
	return two.expects(ctx, "docker exec web2 wget -q -O - http://web/", one.page())
}

// clean takes everything away: the network goes with the last engine that has joined it.
func clean(ctx context.Context, one, two *host) error {
	fmt.Println("\nIt goes as it came, and nothing is left:")
	for _, h := range []*host{one, two} {
		if _, err := h.says(ctx, "docker rm -f "+map[*host]string{one: "web", two: "web2"}[h]); err != nil {
			return err
		}
		if _, err := h.says(ctx, "docker network rm blue"); err != nil {
			return err
		}
	}
	left, err := two.says(ctx, "sealane network ls --filter driver=overlay -q")
	if err == nil && strings.TrimSpace(left) != "" {
		err = fmt.Errorf("a network is left: %s", left)
	}
	return err
}
