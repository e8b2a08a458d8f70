package incusostest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Fleet is a set of simulated servers without sockets, for tests of rollouts that take days. It is the
// poller.Prober and the opscenter.Actuator of a control plane in the same process. Its servers call the
// Registry directly, where a real server calls the control plane's API. A Fleet waits only for timers and
// channels, so it works in a testing/synctest bubble.
//
// The servers behave like those of New, with the same delays, troubles and faults. They differ in these points:
//   - Nothing listens at their addresses.
//   - They trust every client.
//   - A Fault affects all calls to a server until it is ended. Its Path, Method and Times have no effect.
//
// All methods may be called concurrently. Call Close at the end.
type Fleet struct {
	registry *opscenter.Registry
	mu       sync.Mutex
	servers  map[string]*Server // by URL
	calls    []Call
}

var _ opscenter.Actuator = (*Fleet)(nil)

// Call is one call of an action of a Fleet.
type Call struct {
	// At is the time of the call.
	At time.Time
	// Server is the name of the target.
	Server string
	// Action is the called action.
	Action lifecycle.Action
	// Err is the error if the server was not reached. It does not have the outcome of the action.
	Err error
}

// String returns day of the week, time (UTC), action, server and error.
func (c Call) String() string {
	text := fmt.Sprintf("%s %s %s", c.At.UTC().Format("Mon 15:04"), c.Action, c.Server)
	if c.Err != nil {
		text += ": " + c.Err.Error()
	}
	return text
}

// NewFleet returns a fleet without servers. Add registers servers with the registry.
func NewFleet(registry *opscenter.Registry) *Fleet {
	return &Fleet{registry: registry, servers: map[string]*Server{}}
}

// Add boots a server, and registers it with a token. A server with Options.Plain is adopted, and needs no token.
// Errors: those of New, Registry.Register and Registry.Adopt.
func (f *Fleet) Add(ctx context.Context, token string, options Options) (*Server, error) {
	s, err := newServer(options, f)
	if err != nil {
		return nil, err
	}
	// Add it first: the registry requests its first poll at once.
	f.mu.Lock()
	f.servers[s.URL()] = s
	f.mu.Unlock()
	if s.options.Plain {
		err = f.registry.Adopt(ctx, opscenter.Adoption{Servers: []opscenter.AdoptedServer{{Name: s.Name(), ConnectionURL: s.URL(), Certificate: s.Certificate()}}})
	} else {
		_, err = f.registry.Register(ctx, opscenter.Registration{Token: token, Certificate: s.Certificate(), Name: s.Name(),
			ConnectionURL: s.URL(), MachineID: s.MachineID(), SystemUUID: s.SystemUUID()})
	}
	if err != nil {
		f.mu.Lock()
		delete(f.servers, s.URL())
		f.mu.Unlock()
		s.Close()
		return nil, err
	}
	return s, nil
}

// Form makes servers of the fleet a cluster, like Cluster, and records it in the registry. Errors: those of Cluster,
// Registry.CreateCluster and Registry.SetClusterCertificate.
func (f *Fleet) Form(ctx context.Context, name string, spec opscenter.ClusterSpec, servers ...*Server) error {
	if len(servers) == 0 {
		return errors.New("a cluster needs at least one server")
	}
	var names []string
	for _, s := range servers {
		names = append(names, s.Name())
	}
	if _, err := f.registry.CreateCluster(ctx, name, spec, names...); err != nil {
		return err // the servers are unchanged
	}
	if err := Cluster(servers...); err != nil {
		return err
	}
	return f.registry.Write(ctx, func(tx *opscenter.Tx) error {
		return tx.SetClusterCertificate(name, servers[0].ClusterCertificate().Leaf)
	})
}

// Calls returns all calls of actions so far, in order.
func (f *Fleet) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Close closes all servers. It may be called again.
func (f *Fleet) Close() {
	f.mu.Lock()
	servers := maps.Clone(f.servers)
	f.mu.Unlock()
	for _, s := range servers {
		s.Close()
	}
}

// reach returns the server at the target's URL and the fingerprint that it presents, or the failure to reach it.
func (f *Fleet) reach(ctx context.Context, t opscenter.Target) (s *Server, presented string, failure *lifecycle.Failure) {
	f.mu.Lock()
	s = f.servers[t.ConnectionURL]
	f.mu.Unlock()
	if s == nil || s.isDown() {
		return nil, "", &lifecycle.Failure{Kind: lifecycle.FailureConnect, Message: "no connection: connection refused"}
	}
	s.mu.Lock()
	fault := s.fault
	s.mu.Unlock()
	presented = s.presents()
	silent := func(presented string) (*Server, string, *lifecycle.Failure) {
		<-ctx.Done()
		return nil, presented, &lifecycle.Failure{Kind: lifecycle.FailureTimeout, Message: "the server did not answer in time"}
	}
	switch fault.Kind {
	case FaultNone:
	case FaultSlow:
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return silent(presented)
		}
	case FaultSilent:
		return silent("")
	case FaultHang, FaultTrickle:
		return silent(presented)
	case FaultWrongCertificate, FaultExpiredCertificate:
		presented = fingerprint(stranger().Leaf)
	default:
		return nil, presented, &lifecycle.Failure{Kind: lifecycle.FailureAnswer, Message: string(fault.Kind)}
	}
	if presented != t.Fingerprint && presented != t.ServedFingerprint {
		return nil, presented, &lifecycle.Failure{Kind: lifecycle.FailureCertificate, Message: "the server presents another certificate than the registered one: fingerprint " + presented}
	}
	return s, presented, nil
}

// presents returns the fingerprint of the certificate that the server presents.
func (s *Server) presents() string {
	shared := s.db().shared()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.presented != nil:
		return fingerprint(s.presented.Leaf)
	case shared != nil:
		return fingerprint(shared.Leaf)
	}
	return fingerprint(s.identity.Leaf)
}

// selfUpdate passes a self update to the registry, in place of the control plane's API.
func (f *Fleet) selfUpdate(ctx context.Context, certificate *x509.Certificate, url, cause string) error {
	return f.registry.SelfUpdate(ctx, certificate, opscenter.SelfUpdate{ConnectionURL: url, Cause: lifecycle.Cause(cause)})
}
