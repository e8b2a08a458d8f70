package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
)

// scoped says how the scope of a principal applies to a route.
type scoped int

const (
	// wholeFleet: the route shows or changes more than a scope may cover. Principals with a scope are refused.
	wholeFleet scoped = iota
	// anyScope: the route deals with no server.
	anyScope
	// filtered: the handler leaves out what is outside of the scope.
	filtered
	// The path names a server, a cluster, a rollout, a change, a change of a cluster, or a warning, which must be in the scope.
	byServer
	byCluster
	byRollout
	byChange
	byBatch
	byWarning
)

// errScope refuses what is outside of a principal's scope. It says the same of what does not exist.
var errScope = fmt.Errorf("there is no such object in your scope: %w", access.ErrForbidden)

// inScope returns errScope unless what a request names is in the scope of its principal. contains is called if there is a scope. What
// does not exist is in none.
func (h *Handler) inScope(r *http.Request, contains func(*access.Scope) (bool, error)) error {
	scope := scopeOf(r.Context())
	if scope == nil {
		return nil
	}
	switch inside, err := contains(scope); {
	case err != nil && !errors.Is(err, opscenter.ErrNotFound):
		return err
	case err != nil || !inside:
		return errScope
	}
	return nil
}

// checkScope refuses a request for what is outside of the principal's scope.
func (h *Handler) checkScope(r *http.Request, rt *route) error {
	return h.inScope(r, func(scope *access.Scope) (bool, error) {
		ctx, name, id := r.Context(), r.PathValue("name"), r.PathValue("uuid")
		switch rt.scope {
		case anyScope, filtered:
			return true, nil
		case byServer:
			return h.containsServer(ctx, scope, func(s *opscenter.Snapshot) (*opscenter.ServerInfo, error) { return s.Server(name) })
		case byCluster:
			return h.containsCluster(ctx, scope, name)
		case byRollout:
			return h.containsRollout(ctx, scope, id)
		case byChange:
			return h.containsChange(ctx, scope, id)
		case byBatch:
			return h.containsBatch(ctx, scope, id)
		case byWarning:
			w, err := h.registry.Warnings().Get(ctx, id)
			if err != nil {
				return false, err
			}
			return h.containsWarning(ctx, scope, w)
		}
		return false, fmt.Errorf("your scope does not cover the whole fleet: %w", access.ErrForbidden)
	})
}

// containsServer reports whether a server is in a scope.
func (h *Handler) containsServer(ctx context.Context, scope *access.Scope, find func(*opscenter.Snapshot) (*opscenter.ServerInfo, error)) (inside bool, err error) {
	err = h.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		info, err := find(s)
		if err == nil {
			inside = scope.Contains(info.Channel, info.Cluster, info.Properties)
		}
		return err
	})
	return inside, err
}

// containsIDs reports whether the servers of all IDs are in a scope. Their names may be those of other servers by now. A removed server is in no scope.
func (h *Handler) containsIDs(ctx context.Context, scope *access.Scope, ids []string) (inside bool, err error) {
	err = h.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		inside = false
		for _, id := range ids {
			info, err := s.ServerByID(id)
			if errors.Is(err, opscenter.ErrNotFound) {
				return nil
			}
			if err != nil || !scope.Contains(info.Channel, info.Cluster, info.Properties) {
				return err
			}
		}
		inside = true
		return nil
	})
	return inside, err
}

// containsCluster reports whether a cluster and all of its members are in a scope.
func (h *Handler) containsCluster(ctx context.Context, scope *access.Scope, name string) (inside bool, err error) {
	err = h.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		c, err := s.Cluster(name)
		if err == nil {
			inside, err = s.InScope(scope, c)
		}
		return err
	})
	return inside, err
}

// containsRollout reports whether all servers of a rollout are in a scope. One that was removed is not.
func (h *Handler) containsRollout(ctx context.Context, scope *access.Scope, id string) (bool, error) {
	if h.options.Rollouts == nil {
		return true, nil // the route says that there are none
	}
	if _, err := h.options.Rollouts.Get(ctx, id); err != nil {
		return false, err
	}
	for from := 0; ; {
		units, err := h.options.Rollouts.Units(ctx, id, from, pageStep)
		if err != nil {
			return false, err
		}
		var ids []string
		for _, u := range units {
			for _, m := range u.Members {
				ids = append(ids, m.ID)
			}
			from = u.Index + 1
		}
		if inside, err := h.containsIDs(ctx, scope, ids); err != nil || !inside || len(units) < pageStep {
			return inside, err
		}
	}
}

// containsChange reports whether the server of a change is in a scope.
func (h *Handler) containsChange(ctx context.Context, scope *access.Scope, id string) (bool, error) {
	if h.options.System == nil {
		return true, nil // the route says that there are none
	}
	change, err := h.options.System.Change(ctx, id)
	if err != nil {
		return false, err
	}
	return h.containsIDs(ctx, scope, []string{change.ServerID})
}

// containsBatch reports whether all servers of a change of a cluster are in a scope.
func (h *Handler) containsBatch(ctx context.Context, scope *access.Scope, id string) (bool, error) {
	if h.options.System == nil {
		return true, nil // the route says that there are none
	}
	batch, err := h.options.System.Batch(ctx, id)
	if err != nil {
		return false, err
	}
	var ids []string
	for _, m := range batch.Members {
		ids = append(ids, m.ServerID)
	}
	return h.containsIDs(ctx, scope, ids)
}

// scopeOf returns the scope of the principal of a request; nil: the whole fleet.
func scopeOf(ctx context.Context) *access.Scope {
	if p, _ := access.From(ctx); !p.Scope.All() {
		return &p.Scope
	}
	return nil
}
