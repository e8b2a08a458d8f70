package opscenter

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// SetClock sets the time of day as if that much time had passed.
func (r *Registry) SetClock(clock func() time.Time) {
	r.clock = clock
	r.jump.mu.Lock()
	defer r.jump.mu.Unlock()
	r.jump.seen = clockSeen{}
}

// TurnClock sets the time of day, as the operating system's may be set.
func (r *Registry) TurnClock(clock func() time.Time) { r.clock = clock }

// SetCluster makes a server a member of a cluster.
func (r *Registry) SetCluster(ctx context.Context, name, cluster string) error {
	return r.Write(ctx, func(tx *Tx) error {
		return servers.Modify(tx, nameKey(name), func(s *Server) error {
			s.Cluster = cluster
			return nil
		})
	})
}

// Tracked returns of how many servers something is kept in memory.
func (r *Registry) Tracked() (n int) {
	servers, _ := r.presence.Counts()
	for _, some := range servers {
		n += some
	}
	return n
}

// FlushPending reports whether anything is left to flush.
func (r *Registry) FlushPending() bool { return r.presence.Pending() }

// ReducePart is for tests of what is kept of facts that are too large.
func ReducePart(data json.RawMessage, limit int) (json.RawMessage, string, error) {
	return facts.ReducePart(data, limit)
}

// DigestFacts is what facts are compared by.
func DigestFacts(f *lifecycle.Facts) (any, error) { return facts.SumsOf(f, false) }
