package servertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Ports of the servers.
const (
	consulPort     = 8500
	consulRaft     = 8300
	etcdPort       = 2379
	etcdPeerPort   = 2380
	etcdInitial    = "new"
	etcdHeartbeat  = "100"
	etcdElection   = "1000"
	consulProtocol = 3
)

func (s *Server) clientPort() uint16 {
	if s.kind == Consul {
		return consulPort
	}
	return etcdPort
}

func (c *Cluster) arguments(s *Server) []string {
	if c.Kind == Consul {
		return c.consulArguments(s)
	}
	return c.etcdArguments(s)
}

func (c *Cluster) consulArguments(s *Server) []string {
	config := map[string]any{
		"disable_update_check":    true,
		"disable_remote_exec":     true,
		"disable_host_node_id":    true,
		"leave_on_terminate":      false,
		"skip_leave_on_interrupt": true,
		"raft_protocol":           consulProtocol,
		"performance":             map[string]any{"raft_multiplier": 1},
		"connect":                 map[string]any{"enabled": false},
		"autopilot":               map[string]any{"cleanup_dead_servers": false},
		"limits":                  map[string]any{"http_max_conns_per_client": 10_000},
		"log_level":               "warn",
	}
	ports := map[string]any{"dns": -1, "grpc": -1, "serf_wan": -1, "http": consulPort}
	if o := c.Options.TLS; o != nil {
		ports["http"], ports["https"] = -1, consulPort
		config["ca_file"], config["cert_file"], config["key_file"] = o.CA, o.Cert, o.Key
		config["verify_incoming"] = true
	}
	config["ports"] = ports
	if c.Options.Token != "" {
		config["acl"] = map[string]any{"enabled": true, "default_policy": "deny", "tokens": map[string]any{"master": c.Options.Token}}
	}
	text, err := json.Marshal(config)
	if err != nil {
		s.t.Fatal(err)
	}
	address := s.Addr.String()
	args := []string{"agent", "-server", "-node=" + s.Name, "-data-dir=" + s.data(), "-bind=" + address, "-client=" + address,
		fmt.Sprintf("-bootstrap-expect=%d", len(c.Servers)), "-retry-interval=1s", "-hcl=" + string(text)}
	for _, other := range c.Servers {
		if other != s {
			args = append(args, "-retry-join="+other.Addr.String())
		}
	}
	return args
}

func (c *Cluster) etcdArguments(s *Server) []string {
	var initial []string
	for _, other := range c.Servers {
		initial = append(initial, other.Name+"="+other.peerURL())
	}
	scheme := "http"
	var secure []string
	if o := c.Options.TLS; o != nil {
		scheme = "https"
		secure = []string{"--cert-file=" + o.Cert, "--key-file=" + o.Key, "--trusted-ca-file=" + o.CA, "--client-cert-auth"}
	}
	client := scheme + "://" + s.Endpoint()
	return append(secure, "--name="+s.Name, "--data-dir="+s.data(),
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+s.peerURL(), "--initial-advertise-peer-urls="+s.peerURL(),
		"--initial-cluster="+strings.Join(initial, ","), "--initial-cluster-state="+etcdInitial,
		"--heartbeat-interval="+etcdHeartbeat, "--election-timeout="+etcdElection, "--pre-vote", "--logger=zap", "--log-level=error")
}

func (s *Server) peerURL() string { return fmt.Sprintf("http://%s:%d", s.Addr, etcdPeerPort) }

// healthy says whether the server follows a leader and answers.
func (s *Server) healthy() bool {
	if s.kind == Consul {
		return s.leader() != "" && s.hasRead()
	}
	text, ok := s.ask(http.MethodGet, "/health", "")
	return ok && strings.Contains(text, `"true"`)
}

// hasRead says whether Consul answers a consistent read: of nothing, which it then says. Without a token it may be denied, and so it has
// looked.
func (s *Server) hasRead() bool {
	text, ok := s.ask(http.MethodGet, "/v1/session/list?consistent", "")
	return ok || strings.Contains(text, "ermission denied")
}

// leader is the id of the leader that the server knows, "" for none.
func (s *Server) leader() string {
	if s.kind == Consul {
		text, _ := s.ask(http.MethodGet, "/v1/status/leader", "")
		return strings.Trim(strings.TrimSpace(text), `"`)
	}
	status := s.etcdStatus()
	if status.Leader == "0" {
		return ""
	}
	return status.Leader
}

// id is what leader calls this server.
func (s *Server) id() string {
	if s.kind == Consul {
		return fmt.Sprintf("%s:%d", s.Addr, consulRaft)
	}
	return s.etcdStatus().Header.MemberID
}

type etcdStatus struct {
	Header struct {
		MemberID string `json:"member_id"`
	}
	Leader string
}

func (s *Server) etcdStatus() (status etcdStatus) {
	text, ok := s.ask(http.MethodPost, "/v3/maintenance/status", "{}")
	if ok {
		_ = json.Unmarshal([]byte(text), &status)
	}
	return status
}
