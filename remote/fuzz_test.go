package remote

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// Whatever a plugin replies: no panic, and what is taken for an answer keeps the promises of the contracts.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		`{"Err": "boom"}`, `{"Interface": {"Address": "10.1.0.3/24", "MacAddress": "02:00:00:00:00:01"}}`,
		`{"InterfaceName": {"SrcName": "v", "DstPrefix": "eth"}, "Gateway": "10.1.0.1", "StaticRoutes": [{"Destination": "10.2.0.0/16", "RouteType": 0, "NextHop": "10.1.0.9"}]}`,
		`{"PoolID": "p", "Pool": "10.1.0.0/24", "Data": {"com.docker.network.gateway": "10.1.0.1/24"}}`, `{"Address": "10.1.0.2/24"}`,
		`{"Scope": "local", "Sealane": {"Publishes": true}}`,
	} {
		f.Add([]byte(seed), http.StatusOK)
	}
	subnet := netip.MustParsePrefix("10.1.0.0/24")
	n := netdriver.Network{ID: "n", Subnets: []netdriver.Subnet{{Pool: ipam.Pool{Subnet: subnet}}}}
	e := endpoint.Info{ID: "e", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		var i endpointReply
		if read(status, body, &i) == nil && i.Interface != nil {
			if got, err := i.Interface.chosen(n, endpoint.Info{}); err == nil {
				for _, a := range got.Addresses {
					if !subnet.Contains(a.Addr()) {
						t.Errorf("%s is chosen", a)
					}
				}
				if err := endpoint.CheckMAC(got.MAC); err != nil {
					t.Error(err)
				}
			}
		}
		var j joinReply
		if read(status, body, &j) == nil {
			if a, err := j.attachment(n, e); err == nil && a != nil && (a.Link.Arrives == "" || a.Gateway4.Is6()) {
				t.Errorf("brings %+v", a)
			}
		}
		var p poolReply
		q, _ := newPoolRequest(ipam.PoolRequest{Subnet: subnet}, "s")
		if read(status, body, &p) == nil {
			if got, err := p.pool(q); err == nil && (got.Subnet != subnet || got.ID == "" || got.Gateway.IsValid() && !subnet.Contains(got.Gateway)) {
				t.Errorf("pool %+v", got)
			}
		}
		var a addressReply
		if read(status, body, &a) == nil {
			if got, err := a.address(addressRequest{Address: "10.1.0.2"}); err == nil && got.Prefix.Addr() != e.Addresses[0].Addr() {
				t.Errorf("address %+v", got)
			}
		}
		for _, into := range []any{&activation{}, &networkCapability{}, &gatewayReply{}, &infoReply{}, &ipamCapability{}, &addressSpaces{}} {
			_ = read(status, body, into)
		}
	})
}

// Whatever an engine requests: no panic, and an answer that it can read.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"NetworkID": "n", "Options": {"com.docker.network.generic": {"a": 1, "b": {"c": []}}}, "IPv4Data": [{"Pool": "10.1.0.0/24", "Gateway": "10.1.0.1/24", "AuxAddresses": {"r": "10.1.0.9/24"}}]}`,
		`{"NetworkID": "n", "EndpointID": "e", "Interface": {"Address": "10.1.0.2/24", "MacAddress": ""}, "Options": {"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 8080, "HostPortEnd": 8081}]}}`,
		`{"PoolID": "p", "Address": "10.1.0.2", "Options": {"RequestAddressType": "com.docker.network.gateway"}}`,
		`{"AddressSpace": "s", "Pool": "10.1.0.0/24", "SubPool": "10.1.0.0/25", "Sealane": {"Exclude": ["10.0.0.0/8", ""]}}`, `null`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var n networkRequest
		if json.Unmarshal(body, &n) == nil {
			if record, err := n.network(); err == nil {
				again, err := newNetworkRequest(record).network()
				if err != nil || again.ID != record.ID || len(again.Subnets) != len(record.Subnets) {
					t.Errorf("%+v came back as %+v, %v", record, again, err)
				}
			}
		}
		var q endpointRequest
		if json.Unmarshal(body, &q) == nil {
			_, _, _ = q.endpoint()
		}
		var j joinRequest
		if json.Unmarshal(body, &j) == nil {
			_, _, _ = j.endpoint()
		}
		var p poolRequest
		if json.Unmarshal(body, &p) == nil {
			_, _ = p.request()
		}
		var a addressRequest
		if json.Unmarshal(body, &a) == nil {
			_, _ = a.request()
		}
		w := httptest.NewRecorder()
		var into map[string]any
		if err := decode(w, httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body)), &into); err != nil {
			fail(w, requestPool, err)
			var reply answer
			if json.Unmarshal(w.Body.Bytes(), &reply) != nil || reply.Err == "" || reply.Error != reply.Err || w.Code != http.StatusInternalServerError {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
		}
	})
}

// Whatever stands in a spec file: no panic, and no TCP without TLS to elsewhere.
func FuzzSpec(f *testing.F) {
	for _, seed := range []string{"unix:///run/x.sock", "tcp://127.0.0.1:80", "tcp://[::1]:80", "https://example:443", `{"Addr": "tcp://192.0.2.1:80", "TLSConfig": {"InsecureSkipVerify": true}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func() (address, error){
			func() (address, error) { return parseURL(text, nil) },
			func() (address, error) { return parseJSON([]byte(text)) },
		} {
			if a, err := parse(); err == nil && (a.network != "unix" && a.network != "tcp" || a.addr == "") {
				t.Errorf("%q: %+v", text, a)
			}
		}
	})
}
