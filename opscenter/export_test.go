package opscenter

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// SetClock sets the time of day as if that much time had passed.
func (r *Registry) SetClock(clock func() time.Time) {
	r.clock = clock
	r.jump.mu.Lock()
	defer r.jump.mu.Unlock()
	r.jump.seen = clockSeen{}
}

// TurnClock sets the time of day, as an administrator may set that of the operating system.
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

// SetChannel creates a channel, or changes its description.
func (r *Registry) SetChannel(ctx context.Context, name, description string) error {
	err := r.Channels().Create(ctx, name, description)
	if errors.Is(err, storage.ErrExists) {
		return r.Channels().Edit(ctx, name, description, nil)
	}
	return err
}

// UpdateServer replaces the spec of a server.
func (r *Registry) UpdateServer(ctx context.Context, name string, spec ServerSpec, check func(*ServerInfo) error) error {
	return r.EditServer(ctx, name, func(info *ServerInfo, edited *ServerSpec) error {
		*edited = spec
		if check == nil {
			return nil
		}
		return check(info)
	})
}

// UpdateCluster replaces the spec of a cluster.
func (r *Registry) UpdateCluster(ctx context.Context, name string, spec ClusterSpec, check func(*Cluster) error) error {
	return r.EditCluster(ctx, name, func(c *Cluster, edited *ClusterSpec) error {
		*edited = spec
		if check == nil {
			return nil
		}
		return check(c)
	})
}

// UpdateToken replaces the spec of a token.
func (r *Registry) UpdateToken(ctx context.Context, id string, spec TokenSpec, check func(*Token) error) error {
	return r.EditToken(ctx, id, func(token *Token, edited *TokenSpec) error {
		*edited = spec
		if check == nil {
			return nil
		}
		return check(token)
	})
}

// BeginAction begins an action in a transaction of its own.
func (r *Registry) BeginAction(ctx context.Context, name string, action lifecycle.Action) (*lifecycle.Operation, *ServerInfo, error) {
	return r.begin(ctx, Intent{Server: name, Action: action})
}

// EndAction ends an action in a transaction of its own.
func (r *Registry) EndAction(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation, failure error) error {
	return r.end(ctx, server, operation, failure)
}

// FactsHistory returns how the facts of a server changed.
func (r *Registry) FactsHistory(ctx context.Context, name string) (out []lifecycle.FactsRevision, err error) {
	err = r.Read(ctx, func(s *Snapshot) error {
		out, err = s.FactsHistory(name)
		return err
	})
	return out, err
}

// ServerByFingerprint returns the server with a certificate.
func (r *Registry) ServerByFingerprint(ctx context.Context, fingerprint string) (*ServerInfo, error) {
	return r.serverByFingerprint(ctx, fingerprint)
}

// CheckAdoption checks an adoption on a snapshot of its own.
func (r *Registry) CheckAdoption(ctx context.Context, c AdoptionCheck) error {
	return r.Read(ctx, func(s *Snapshot) error { return s.CheckAdoption(c) })
}

// RemoveSpentTokens removes the tokens that Observer.Maintain removes.
func (r *Registry) RemoveSpentTokens(ctx context.Context) (int, error) {
	return r.removeSpentTokens(ctx)
}

// Tracked returns the number of servers that the presence knows.
func (r *Registry) Tracked() (n int) {
	servers, _ := r.presence.Counts()
	for _, some := range servers {
		n += some
	}
	return n
}

// FlushPending reports whether anything is left to flush.
func (r *Registry) FlushPending() bool {
	left := r.presence.Flush.Take()
	r.presence.Flush.Return(left)
	return len(left.Seen)+len(left.Warnings) > 0
}

// ReducePart returns the part that is kept of facts that are too large.
func ReducePart(data json.RawMessage, limit int) (json.RawMessage, string, error) {
	return facts.ReducePart(data, limit)
}

// SeenStep returns how many buckets of last seen times go into one transaction of a flush.
func SeenStep(list []presence.Seen, limits storage.Limits) int { return seenStep(list, limits) }

// DigestFacts returns the digest by which facts are compared.
func DigestFacts(f *lifecycle.Facts) (any, error) { return facts.SumsOf(f, false) }

// DamageFacts changes a byte of the stored facts of a server.
func (r *Registry) DamageFacts(ctx context.Context, name string) error {
	return r.Write(ctx, func(tx *Tx) error {
		info, err := tx.Snapshot().Server(name)
		if err != nil {
			return err
		}
		return factsTable.Modify(tx, storage.StringKey(info.ID), func(f *factsRow) error {
			f.Data[len(f.Data)/2] ^= 1
			return nil
		})
	})
}

// Defaults of Options.
const (
	DefaultMaxServerEvents    = defaultMaxServerEvents
	DefaultSelfUpdateInterval = defaultSelfUpdateInterval
	DefaultMaxFactsHistory    = defaultMaxFactsHistory
	DefaultAdmitTimeout       = defaultAdmitTimeout
)

// FieldsWithoutValue are the fields of expressions about servers for which serverValues has no value.
func FieldsWithoutValue() (out []string) {
	for name := range serverSchema.Fields {
		if serverValues[name] == nil {
			out = append(out, name)
		}
	}
	return out
}
