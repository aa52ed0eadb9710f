package remote

import (
	"context"

	"github.com/sealane/sealane/netdriver"
)

// networkServer is a network driver as a plugin.
type networkServer struct{ d netdriver.Driver }

func (s *Server) serveNetwork(n networkServer) {
	handle(s, networkCapabilities, n.capability)
	handle(s, gatewayCheck, n.skipGateway)
	handle(s, createNetwork, n.createNetwork)
	handle(s, deleteNetwork, n.deleteNetwork)
	handle(s, createEndpoint, n.createEndpoint)
	handle(s, deleteEndpoint, n.deleteEndpoint)
	handle(s, endpointInfo, n.info)
	handle(s, join, n.join)
	handle(s, leave, n.leave)
	handle(s, programConnectivity, n.program)
	handle(s, revokeConnectivity, n.revoke)
	for _, path := range []string{discoverNew, discoverDelete, freeNetwork} {
		handle(s, path, func(context.Context, none) (none, error) { return none{}, nil })
	}
	handle(s, allocateNetwork, n.allocate)
}

func (n networkServer) capability(ctx context.Context, _ none) (networkCapability, error) {
	c, err := n.d.Capability(ctx)
	reply := networkCapability{Scope: string(c.Scope), ConnectivityScope: string(c.Connectivity)}
	_, reply.GwAllocChecker = n.d.(netdriver.GatewayAllocator)
	if _, able := n.d.(netdriver.ExternalConnector); able {
		reply.Sealane = &replyExtra{Publishes: c.Publishes}
	}
	return reply, err
}

func (n networkServer) skipGateway(ctx context.Context, q gatewayRequest) (reply gatewayReply, err error) {
	if g, able := n.d.(netdriver.GatewayAllocator); able {
		reply.SkipIPv4, reply.SkipIPv6, err = g.SkipGateway(ctx, texts(q.Options[optGeneric]))
	}
	return reply, err
}

// allocate is asked by a swarm manager: there is nothing to add to what nodes are told.
func (networkServer) allocate(context.Context, networkRequest) (struct{ Options map[string]string }, error) {
	return struct{ Options map[string]string }{map[string]string{}}, nil
}

func (n networkServer) createNetwork(ctx context.Context, q networkRequest) (none, error) {
	record, err := q.network()
	if err != nil {
		return none{}, err
	}
	_, err = n.d.CreateNetwork(ctx, netdriver.Input{Network: record})
	return none{}, err
}

func (n networkServer) deleteNetwork(ctx context.Context, q networkName) (none, error) {
	record, err := networkRequest{NetworkID: q.NetworkID, Sealane: q.Sealane}.network()
	if err != nil {
		return none{}, err
	}
	return none{}, n.d.DeleteNetwork(ctx, record)
}

func (n networkServer) createEndpoint(ctx context.Context, q endpointRequest) (endpointReply, error) {
	record, e, err := q.endpoint()
	if err != nil {
		return endpointReply{}, err
	}
	chosen, err := n.d.CreateEndpoint(ctx, netdriver.Input{Network: record}, e)
	return endpointReply{Interface: newIface(chosen)}, err
}

func (n networkServer) deleteEndpoint(ctx context.Context, q endpointName) (none, error) {
	record, e, err := q.names()
	if err != nil {
		return none{}, err
	}
	return none{}, n.d.DeleteEndpoint(ctx, record, e)
}

func (n networkServer) info(ctx context.Context, q endpointName) (infoReply, error) {
	reply := infoReply{Value: map[string]any{}}
	record, e, err := q.names()
	if err != nil {
		return reply, err
	}
	if i, able := n.d.(netdriver.Informer); able {
		value, err := i.EndpointInfo(ctx, record, e)
		if value != nil {
			reply.Value = value
		}
		return reply, err
	}
	return reply, nil
}

func (n networkServer) join(ctx context.Context, q joinRequest) (joinReply, error) {
	record, e, err := q.endpoint()
	if err != nil {
		return joinReply{}, err
	}
	plan, err := n.d.Join(ctx, netdriver.Input{Network: record}, e)
	return newJoinReply(plan.Attachment), err
}

func (n networkServer) leave(ctx context.Context, q endpointName) (none, error) {
	record, e, err := q.names()
	if err != nil {
		return none{}, err
	}
	return none{}, n.d.Leave(ctx, record, e)
}

func (n networkServer) program(ctx context.Context, q programRequest) (none, error) {
	record, e, err := endpointName{NetworkID: q.NetworkID, EndpointID: q.EndpointID, Sealane: q.Sealane}.names()
	if err != nil {
		return none{}, err
	}
	if e.Ports, e.Spec.Exposed, err = ports(q.Options); err != nil {
		return none{}, err
	}
	if c, able := n.d.(netdriver.ExternalConnector); able {
		err = c.ProgramExternalConnectivity(ctx, record, e)
	}
	return none{}, err
}

func (n networkServer) revoke(ctx context.Context, q endpointName) (none, error) {
	record, e, err := q.names()
	if err != nil {
		return none{}, err
	}
	if c, able := n.d.(netdriver.ExternalConnector); able {
		err = c.RevokeExternalConnectivity(ctx, record, e)
	}
	return none{}, err
}
