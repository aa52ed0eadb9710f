// Package api is the daemon's HTTP API, under /v1 of a unix socket, and its client: Docker's paths and JSON for networks, and the like
// for sandboxes, endpoints, hosts and events.
//
// Server is an http.Handler over a sealane.Controller; Client has a method for each route and gives the values that the server was
// given, errors with their kinds included. The values are declared by noun (network.go, sandbox.go, …) and shared by both.
//
// The package adds to the Controller what a command line wants: references resolved by the server, the predefined networks none, host and
// bridge, sandboxes that are made with their networks or not at all, and published ports that belong to a sandbox. docs/api.md has every
// route.
package api
