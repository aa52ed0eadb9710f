package netdriver_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

func TestNamed(t *testing.T) {
	plan := netdriver.Plan{
		Shares: []netdriver.Share{
			{Config: sandbox.Config{Links: []sandbox.Link{
				{Name: "sv1", Veth: &sandbox.Veth{Space: "/n"}},
				{Name: "sv2", Veth: &sandbox.Veth{Peer: "sp2"}},
				{Name: "br", Bridge: &sandbox.Bridge{}},
			}}},
			{Space: "net/x"},
		},
		Attachment: &sandbox.Attachment{Prefix: "eth"},
	}
	before, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	named := plan.Named("eth7")
	links := named.Shares[0].Config.Links
	if links[0].Veth.Peer != "eth7" || links[0].Veth.Space != "/n" || links[1].Veth.Peer != "sp2" || named.Attachment.Link.Name != "eth7" {
		t.Errorf("named: %+v %+v, brings %+v", links[0].Veth, links[1].Veth, named.Attachment)
	}
	if again := named.Named("eth8"); again.Attachment.Link.Name != "eth7" || again.Shares[0].Config.Links[0].Veth.Peer != "eth7" {
		t.Error("a name that was given is given again")
	}
	if after, _ := json.Marshal(plan); string(after) != string(before) {
		t.Errorf("the plan itself changed: %s", after)
	}
	if empty := (netdriver.Plan{}).Named("eth0"); empty.Attachment != nil || len(empty.Shares) != 0 {
		t.Errorf("nothing, named: %+v", empty)
	}
}

var errPlan = errors.New("no plan")

type planner struct{ err error }

func (planner) Type() netdriver.Capability { return netdriver.Capability{Type: "p"} }
func (p planner) PlanNetwork(netdriver.Input) (netdriver.Plan, error) {
	return netdriver.Plan{Shares: make([]netdriver.Share, 1)}, p.err
}
func (p planner) PlanEndpoint(netdriver.Input, endpoint.Info) (netdriver.Plan, error) {
	return netdriver.Plan{Shares: make([]netdriver.Share, 2)}, p.err
}

func TestPlanned(t *testing.T) {
	ctx, d := t.Context(), netdriver.Planned(planner{})
	if c, err := d.Capability(ctx); err != nil || c.Type != "p" || !c.Computes {
		t.Errorf("capability %+v, %v", c, err)
	}
	if p, err := d.CreateNetwork(ctx, netdriver.Input{}); err != nil || len(p.Shares) != 1 {
		t.Errorf("create network: %v, %v", p, err)
	}
	if p, err := d.Join(ctx, netdriver.Input{}, endpoint.Info{}); err != nil || len(p.Shares) != 2 {
		t.Errorf("join: %v, %v", p, err)
	}
	if i, err := d.CreateEndpoint(ctx, netdriver.Input{}, endpoint.Info{}); err != nil || i.MAC != nil || i.Addresses != nil {
		t.Errorf("create endpoint chose %v, %v", i, err)
	}
	// An endpoint that could never join is refused when it is made.
	if _, err := netdriver.Planned(planner{errPlan}).CreateEndpoint(ctx, netdriver.Input{}, endpoint.Info{}); !errors.Is(err, errPlan) {
		t.Errorf("create endpoint without a plan: %v", err)
	}
}
