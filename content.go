package sealane

import (
	"cmp"
	"context"
	"slices"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// content is one sandbox as the records have it, and what converging makes of it. It lives for one call, under the sandbox's lock.
type content struct {
	id      sandbox.ID
	sandbox sandbox.Info
	known   bool           // there is a record of the sandbox
	dirty   bool           // the record was changed by this call
	made    bool           // and there was none before
	ended   bool           // this call ends the sandbox because it is empty
	ports   endpoint.Ports // what it publishes by whichever member is its gateway
	moved   bool           // ports was changed by this call
	gone    bool           // the namespace ended without us
	members []*member
	brought map[string]sandbox.Attachment // what the wanted members bring, by id
	merged  sandbox.Merged                // what it should contain then
}

// member is an endpoint that is wanted in the sandbox, or that may have something in it.
type member struct {
	id      endpoint.ID
	on      endpoint.NetworkID
	info    endpoint.Info     // ID "": there is no record
	network netdriver.Network // ID "": there is no record
	held    netdriver.Held    // what the kernel may have; Owner "": nothing
	had     netdriver.Plan    // what Held said before this call
	has     netdriver.Plan    // what the kernel had of it then, outside the sandbox
	driven  netdriver.Held    // what a driver that acts may have, and what it answered to Join; Driver "": nothing
	want    netdriver.Plan
	listed  bool // it has a membership
	dirty   bool // info was changed by this call
	fresh   bool // it had nothing before this call
	made    bool // it has no record before this call
	gateway bool // it carries its sandbox's way out
	mine    bool // the caller of converge holds it, and tells its driver about its role
}

// remains says that the endpoint is to be in the sandbox, wherever that is: none of the three is going.
func (m *member) remains(v *content) bool {
	return v.known && !v.sandbox.Deleting && m.info.ID != "" && !m.info.Deleting && m.info.Sandbox == v.id &&
		m.network.ID != "" && !m.network.Deleting
}

// wanted is remains where there is something to do now: the namespace is there.
func (m *member) wanted(v *content) bool { return m.remains(v) && v.placed() }

// waits says that the endpoint was made for the sandbox and is not in it: it goes with the sandbox.
func (m *member) waits(v *content) bool {
	return v.known && !v.sandbox.Deleting && m.info.ID != "" && !m.info.Deleting && m.info.Sandbox == "" && m.info.Spec.For == v.id
}

// doomed says that the endpoint's record goes when it has left: it was made for this sandbox, or the sandbox ended under it.
func (m *member) doomed(v *content) bool {
	return m.info.ID != "" && (m.info.Deleting || v.sandbox.Deleting && (m.info.Spec.For == v.id || v.gone))
}

// placed says that the sandbox has a namespace, or someone who moves links into it. An unknown one is somewhere.
func (v *content) placed() bool {
	o := v.sandbox.Spec.Namespace
	return v.sandbox.Key != "" || o.Host || o.Foreign || v.sandbox.Unknown
}

// enterable says that what the sandbox contains is ours to make.
func (v *content) enterable() bool {
	return v.sandbox.Key != "" && v.sandbox.Spec.Namespace.Share == ""
}

// ours says that the namespace was made by us and goes with the sandbox.
func (v *content) ours() bool { return v.sandbox.Spec.Namespace == (sandbox.Origin{}) }

// member finds an endpoint in the content; nil when it is not there.
func (v *content) member(id endpoint.ID) *member {
	for _, m := range v.members {
		if m.id == id {
			return m
		}
	}
	return nil
}

// add puts an endpoint in.
func (v *content) add(e endpoint.Info, n netdriver.Network) *member {
	m := &member{id: e.ID, on: n.ID, info: e, network: n}
	v.members = append(v.members, m)
	slices.SortFunc(v.members, func(a, b *member) int { return cmp.Compare(a.id, b.id) })
	return m
}

// begin makes it the content of a new sandbox.
func (v *content) begin(s sandbox.Info) {
	v.sandbox, v.known, v.made, v.dirty = s, true, true, true
}

// read reads a sandbox and all that may be in it, at one moment of each store.
func (c *Controller) read(ctx context.Context, id sandbox.ID) (*content, error) {
	v, err := view(ctx, c.o.Run, func(tx datastore.Tx) (*content, error) { return c.memory.readRun(tx, id) })
	if err != nil || len(v.members) == 0 {
		return v, err
	}
	err = c.o.Root.View(ctx, func(tx datastore.Tx) (err error) {
		for _, m := range v.members {
			if m.driven, _, err = maybe(drivenTable().Get(tx, endpointOwner(m.id))); err != nil {
				return err
			}
			if m.network, _, err = maybe(c.memory.networks.Get(tx, networkTable(), string(m.on))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || c.o.Cluster == nil {
		return v, err
	}
	for _, m := range v.members {
		if m.network.ID == "" {
			if m.network, _, err = maybe(c.replica(ctx, m.on)); err != nil {
				return v, err
			}
		}
	}
	return v, nil
}

// memory is of what the records of the last few verbs decoded to.
type memory struct {
	networks  datastore.Memo[netdriver.Network]
	sandboxes datastore.Memo[sandbox.Info]
	endpoints datastore.Memo[endpoint.Info]
	held      datastore.Memo[netdriver.Held]
}

func (r *memory) readRun(tx datastore.Tx, id sandbox.ID) (v *content, err error) {
	v = &content{id: id}
	if v.sandbox, v.known, err = maybe(r.sandboxes.Get(tx, sandboxTable(), string(id))); err != nil {
		return nil, err
	}
	if v.ports, _, err = maybe(portsTable().Get(tx, string(id))); err != nil {
		return nil, err
	}
	members := memberTable(id)
	for name, text := range tx.List(members.Dir) {
		on, err := members.Decode(name, text)
		if err != nil {
			return nil, err
		}
		m := &member{id: endpoint.ID(name), on: on, listed: true}
		if m.info, _, err = maybe(r.endpoints.Get(tx, endpointTable(m.on), name)); err != nil {
			return nil, err
		}
		if m.held, _, err = maybe(r.held.Get(tx, heldTable(), endpointOwner(m.id))); err != nil {
			return nil, err
		}
		v.members = append(v.members, m)
	}
	return v, nil
}
