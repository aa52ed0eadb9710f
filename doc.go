// Package sealane gives containers networks: Sandbox, Endpoint and Network of the Container Network Model.
//
// A record says what is wanted, a driver turns records into a plan, and one function, converge, makes the kernel match the plan:
//
//	NetworkSpec, endpoint.Spec, sandbox.Spec        what users say
//	        │
//	     records  ──────────► netdriver.Driver      the run, root and cluster stores; Held says what may exist
//	        │                        │ Plan
//	        └──────► converge ◄──────┘
//	                    │
//	   sandbox.Namespace.Apply, firewall.Firewall.Apply
//
// Creating, rolling back, deleting, restarting and repairing are that one path. Read network.go, endpoint.go and sandbox.go for the
// verbs, then converge.go for the path. The package knows no room, no kernel and no protocol: Options brings them.
package sealane
