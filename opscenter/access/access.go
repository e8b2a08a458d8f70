// Package access defines principals, their roles, and scopes: the part of the fleet that a principal may use.
//
// The package is pure. Package httpapi finds out the principal of a request with an Authorizer, and its table of routes says which role
// each route wants.
package access

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Role names the rights of a principal. Each role includes those before it in Roles.
type Role string

// The roles.
const (
	// RoleViewer reads the fleet, and sees no secrets.
	RoleViewer Role = "viewer"
	// RoleOperator runs the fleet: it updates, evacuates and reboots servers, starts rollouts, and changes networks and the update,
	// kernel and logging settings.
	RoleOperator Role = "operator"
	// RoleAdmin also decides on membership and trust: tokens, access tokens, seeds, images, certificates, clusters, channels and the
	// update feed. It changes storage and provider settings, writes to servers' own APIs, and resets servers.
	RoleAdmin Role = "admin"
)

// Roles are all roles. Each includes those before it.
var Roles = []Role{RoleViewer, RoleOperator, RoleAdmin}

// Includes reports whether a principal of this role may do what another role may. An unknown role includes none.
func (r Role) Includes(other Role) bool {
	own, wanted := slices.Index(Roles, r), slices.Index(Roles, other)
	return own >= 0 && wanted >= 0 && own >= wanted
}

// Errors of an authorizer.
var (
	// ErrUnauthenticated means that a request shows no credentials: no certificate, no access token, and no trusted Unix socket.
	ErrUnauthenticated = errors.New("no credentials were shown")
	// ErrForbidden means that the credentials of a request are not admitted, or that the role or the scope of its principal
	// does not cover the request.
	ErrForbidden = errors.New("not allowed")
	// ErrInvalid means that a role or a scope is not valid.
	ErrInvalid = errors.New("invalid grant")
)

// Scope is the part of the fleet that a principal deals with. A server is in it if it satisfies each of the fields. An empty
// field is satisfied by all. The zero value covers the whole fleet.
type Scope struct {
	// Channels are the update channels of servers. Clusters are the names of clusters; a server in no cluster is in none of them.
	Channels []string `json:"channels,omitempty"`
	Clusters []string `json:"clusters,omitempty"`
	// Properties are those that a server must have, with these values.
	Properties map[string]string `json:"properties,omitempty"`
}

// All reports whether the scope covers the whole fleet.
func (s *Scope) All() bool {
	return len(s.Channels) == 0 && len(s.Clusters) == 0 && len(s.Properties) == 0
}

// Contains reports whether a server with that channel, cluster and properties is in the scope.
func (s *Scope) Contains(channel, cluster string, properties map[string]string) bool {
	if len(s.Channels) > 0 && !slices.Contains(s.Channels, channel) || len(s.Clusters) > 0 && !slices.Contains(s.Clusters, cluster) {
		return false
	}
	for name, wanted := range s.Properties {
		if value, ok := properties[name]; !ok || value != wanted {
			return false
		}
	}
	return true
}

// Grant is a role within a scope.
type Grant struct {
	Role  Role  `json:"role"`
	Scope Scope `json:"scope,omitzero"`
}

// Validate returns ErrInvalid for an unknown role, and for a scope with empty names: an empty name would be satisfied by no server,
// or by each server in no cluster.
func (g *Grant) Validate() error {
	if !slices.Contains(Roles, g.Role) {
		return fmt.Errorf("role %.40q is none of %v: %w", string(g.Role), Roles, ErrInvalid)
	}
	if slices.Contains(g.Scope.Channels, "") || slices.Contains(g.Scope.Clusters, "") {
		return fmt.Errorf("scope: an empty name of a channel or cluster: %w", ErrInvalid)
	}
	if _, ok := g.Scope.Properties[""]; ok {
		return fmt.Errorf("scope: a property without a name: %w", ErrInvalid)
	}
	return nil
}

// Narrowed returns what both grants allow: the lower role, and the servers that are in both scopes. ok is false if that is no
// scope of its own, because both want different values of a property, or have no channel or cluster in common.
func (g Grant) Narrowed(by Grant) (out Grant, ok bool) {
	out = Grant{Role: g.Role, Scope: Scope{Properties: maps.Clone(g.Scope.Properties)}}
	if !by.Role.Includes(g.Role) {
		out.Role = by.Role
	}
	var channels, clusters bool
	out.Scope.Channels, channels = common(g.Scope.Channels, by.Scope.Channels)
	out.Scope.Clusters, clusters = common(g.Scope.Clusters, by.Scope.Clusters)
	for name, value := range by.Scope.Properties {
		if known, ok := out.Scope.Properties[name]; ok && known != value {
			return Grant{}, false
		}
		if out.Scope.Properties == nil {
			out.Scope.Properties = map[string]string{}
		}
		out.Scope.Properties[name] = value
	}
	return out, channels && clusters
}

// common returns the names that both lists hold. An empty list holds all names. false: there is no common one.
func common(a, b []string) ([]string, bool) {
	switch {
	case len(a) == 0:
		return slices.Clone(b), true
	case len(b) == 0:
		return slices.Clone(a), true
	}
	out := slices.DeleteFunc(slices.Clone(a), func(name string) bool { return !slices.Contains(b, name) })
	return out, len(out) > 0
}

// Principal is a person or program that sends requests, and what it may do.
type Principal struct {
	// Name stands in the audit log and in the log.
	Name string
	Grant
}

type principalKey struct{}

// With returns a context of a request of the principal.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// From returns the principal of the request of a context. false: the request has none.
func From(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}
