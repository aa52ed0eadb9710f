// Package remote speaks the Docker plugin protocol both ways over netdriver.Driver and ipam.Driver: a client that makes a driver of
// anybody's plugin, and a server that makes a plugin of a driver.
//
//	Controller ── netdriver.Driver ── client ── HTTP, JSON ── plugin            somebody's plugin under us
//	engine ── HTTP, JSON ── server ── netdriver.Driver ── Controller            us under somebody's engine
//
// Both are translations and keep nothing of networks, endpoints and addresses. Each message is one type (message.go), and each has its
// two translations side by side (network_wire.go, ipam_wire.go), so that what one end writes the other reads.
//
// The protocol is described at https://github.com/moby/moby/blob/master/daemon/libnetwork/docs/remote.md and ipam.md beside it. Requests
// are POSTed to /NetworkDriver.* and /IpamDriver.* after one to /Plugin.Activate, which says which of the two a plugin implements. What
// Docker has no field for goes under one more key, "Sealane" (Extra), which plugins that do not know it ignore.
package remote
