package dns

import (
	"net"
	"testing"
	"testing/synctest"

	"github.com/miekg/dns"
)

// A client that does not read its answers loses its connection with the first that it does not take: what came after a part of one would make
// no sense to it, and who answers does not wait for it again and again.
func TestClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b := &Resolver{}, &box{listens: true}
		client, server := net.Pipe()
		defer client.Close()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.stream(b, server)
		}()
		q, err := new(dns.Msg).SetQuestion("somebody.", dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write(framed(q)); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write(framed(q)); err == nil {
			t.Error("after an answer that it did not take another question is read")
		}
		<-ended
	})
}
