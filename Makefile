# Everything that a developer runs. A machine with Debian, Go and make is enough: what else a target needs it installs, and says so.
# Kernel tests, the demo and the bench make network namespaces and so run as root: by sudo when you are not.

SUDO        := $(shell test "$$(id -u)" = 0 || echo sudo)
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 15s
BENCHFLAGS  ?=
STORE       ?= consul
# Test binaries are built by you and run as root, who keeps a build cache of its own and finds your modules.
EXEC        := $(if $(SUDO),-exec "sudo env PATH=$(PATH) GOMODCACHE=$(shell go env GOMODCACHE)")

# Where programs go that Debian's present suite does not have.
CACHE       := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sealane
SERVERS     := $(CACHE)/bin
KERNEL      := $(CACHE)/kernel

export PATH := $(PATH):/usr/sbin:/sbin:$(SERVERS)

.PHONY: docker-demo demo overlay-demo overlay-demo-vm test systemd verify fuzz bench check servers

demo: ## two containers on a network that talk
	go build -o bin/quickstart ./examples/quickstart
	$(SUDO) bin/quickstart

docker-demo: ## two Docker engines without Swarm whose containers share a network
	scripts/need nsenter:util-linux dockerd:docker.io docker:docker.io runc:runc busybox:busybox-static
	scripts/consul $(SERVERS)
	go build -o bin/sealane ./cmd/sealane
	go build -o bin/docker-demo ./examples/docker-plugin
	$(SUDO) bin/docker-demo -sealane bin/sealane -consul $(SERVERS)/consul

overlay-demo: ## two hosts, a container on each, one network over Consul, or STORE=etcd
	scripts/need ping:iputils-ping nsenter:util-linux $(if $(filter etcd,$(STORE)),etcd:etcd-server)
	$(if $(filter consul,$(STORE)),scripts/consul $(SERVERS))
	go build -o bin/ ./cmd/sealane ./examples/overlay
	$(if $(SUDO),sudo env PATH=$(PATH)) bin/overlay -store $(STORE)

overlay-demo-vm: ## the same on two machines in QEMU with a kernel each; no root needed
	scripts/need qemu-system-x86_64:qemu-system-x86 busybox:busybox-static ping:iputils-ping $(if $(filter etcd,$(STORE)),etcd:etcd-server)
	$(if $(filter consul,$(STORE)),scripts/consul $(SERVERS))
	scripts/kernel $(KERNEL)
	CGO_ENABLED=0 go build -ldflags "-s -w" -o bin/ ./cmd/sealane ./examples/overlay
	bin/overlay -vm -kernel $(KERNEL) -store $(STORE)

test: ## everything that must hold before a change goes in
	scripts/need gcc:gcc /usr/include/stdio.h:libc6-dev ip:iproute2 nft:nftables ping:iputils-ping sysctl:procps iptables:iptables tcpdump:tcpdump conntrack:conntrack busybox:busybox-static strace:strace \
		dig:bind9-dnsutils dnsperf:dnsperf musl-gcc:musl-tools unshare:util-linux \
		dockerd:docker.io docker:docker.io runc:runc docker-compose:docker-compose systemd-analyze:systemd qemu-system-x86_64:qemu-system-x86
	$(MAKE) --no-print-directory servers
	scripts/kernel $(KERNEL)
	$(MAKE) --no-print-directory check
	go test -race -count=1 -vet=off -p 3 -timeout 30m $(EXEC) ./... # vetted by check

servers: ## Consul and etcd, which tests of stores run against, and newer Docker engines than the machine's
	scripts/need etcd:etcd-server
	scripts/consul $(SERVERS)
	scripts/unpack trixie $(SERVERS)/../docker26 docker.io containerd
	scripts/unpack forky $(SERVERS)/../docker28 docker.io docker-cli containerd

systemd: ## the daemon as a service of a systemd that keeps descriptors, on a machine in QEMU; no root needed
	scripts/need qemu-system-x86_64:qemu-system-x86 busybox:busybox-static
	scripts/kernel $(KERNEL)
	scripts/unpack trixie $(SERVERS)/../systemd systemd libsystemd-shared libc6 libmount1 libblkid1 libselinux1 libpcre2-8-0 libseccomp2 libcap2 \
		libaudit1 libcap-ng0 libpam0g libcrypt1 libacl1 libssl3t64 libapparmor1 zlib1g libzstd1
	go test -count=1 -v -run '^TestSystemd$$' ./cmd/sealane -args -systemd

verify: check ## checks, the floors, the README
	scripts/need nft:nftables busybox:busybox-static
	go test -count=1 -run '^Test(Architecture|README)' $(EXEC) .
	cd bench && go vet ./... && go test ./...

check: ## what reads the code only
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...

fuzz: ## every fuzz target for FUZZTIME
	scripts/fuzz $(FUZZTIME)

bench: ## sealane beside the floor and a peer; BENCHFLAGS="-quick -rows attach"
	scripts/need ip:iproute2 nft:nftables iptables:iptables dockerd:docker.io docker:docker.io runc:runc busybox:busybox-static
	$(MAKE) --no-print-directory servers
	cd bench && go build -o ../bin/bench .
	$(SUDO) bin/bench $(BENCHFLAGS)
