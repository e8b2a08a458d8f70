package access_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/access"
)

func TestRoles(t *testing.T) {
	for own, role := range access.Roles {
		for wanted, other := range access.Roles {
			require.Equal(t, own >= wanted, role.Includes(other), "%s, %s", role, other)
		}
		require.False(t, role.Includes("owner"))
		require.False(t, role.Includes(""))
		require.False(t, access.Role("owner").Includes(role))
		require.False(t, access.Role("").Includes(role))
	}
	require.False(t, access.Role("").Includes(""), "no role includes itself unless it is known")
}

func TestScope(t *testing.T) {
	require.True(t, (&access.Scope{}).All())
	for _, s := range []access.Scope{{Channels: []string{"stable"}}, {Clusters: []string{"c1"}}, {Properties: map[string]string{"site": "berlin"}}} {
		require.False(t, s.All())
	}
	scope := access.Scope{Channels: []string{"stable", "edge"}, Clusters: []string{"c1"}, Properties: map[string]string{"site": "berlin"}}
	site := map[string]string{"site": "berlin", "rack": "3"}
	require.True(t, scope.Contains("stable", "c1", site))
	require.True(t, scope.Contains("edge", "c1", site))
	require.False(t, scope.Contains("", "c1", site))
	require.False(t, scope.Contains("stable", "", site), "a server in no cluster is in no scope of clusters")
	require.False(t, scope.Contains("stable", "c1", nil))
	require.False(t, scope.Contains("stable", "c1", map[string]string{"site": "bonn"}))
	require.True(t, (&access.Scope{Properties: map[string]string{"site": ""}}).Contains("", "", map[string]string{"site": ""}))
	require.False(t, (&access.Scope{Properties: map[string]string{"site": ""}}).Contains("", "", nil), "a property that is missing is not an empty one")
}

func TestValidate(t *testing.T) {
	for _, role := range access.Roles {
		require.NoError(t, (&access.Grant{Role: role}).Validate())
	}
	for _, g := range []access.Grant{{}, {Role: "owner"}, {Role: access.RoleAdmin, Scope: access.Scope{Channels: []string{""}}},
		{Role: access.RoleAdmin, Scope: access.Scope{Clusters: []string{"c1", ""}}}, {Role: access.RoleAdmin, Scope: access.Scope{Properties: map[string]string{"": "x"}}}} {
		require.ErrorIs(t, g.Validate(), access.ErrInvalid)
	}
}

// A server that is in the narrowed scope is in both, and one that is in both is in the narrowed one.
func TestNarrowed(t *testing.T) {
	choices := []access.Scope{{}, {Channels: []string{"a", "b"}}, {Channels: []string{"b", "c"}}, {Clusters: []string{"x"}}, {Clusters: []string{"y"}},
		{Properties: map[string]string{"p": "1"}}, {Properties: map[string]string{"p": "2"}}, {Properties: map[string]string{"q": "1"}},
		{Channels: []string{"b"}, Clusters: []string{"x", "y"}, Properties: map[string]string{"p": "1"}}}
	for i, first := range choices {
		for k, second := range choices {
			got, ok := access.Grant{Role: access.RoleAdmin, Scope: first}.Narrowed(access.Grant{Role: access.RoleViewer, Scope: second})
			if ok {
				require.Equal(t, access.RoleViewer, got.Role)
			}
			for _, channel := range []string{"", "a", "b", "c"} {
				for _, cluster := range []string{"", "x", "y"} {
					for _, properties := range []map[string]string{nil, {"p": "1"}, {"p": "2"}, {"q": "1"}, {"p": "1", "q": "1"}} {
						both := first.Contains(channel, cluster, properties) && second.Contains(channel, cluster, properties)
						require.Equal(t, both, ok && got.Scope.Contains(channel, cluster, properties), "%d %d: %q %q %v", i, k, channel, cluster, properties)
					}
				}
			}
		}
	}
	low, _ := access.Grant{Role: access.RoleViewer}.Narrowed(access.Grant{Role: access.RoleAdmin})
	require.Equal(t, access.RoleViewer, low.Role)
}

func TestContext(t *testing.T) {
	_, ok := access.From(t.Context())
	require.False(t, ok)
	p := access.Principal{Name: "alice", Grant: access.Grant{Role: access.RoleViewer}}
	got, ok := access.From(access.With(t.Context(), p))
	require.True(t, ok)
	require.Equal(t, p, got)
}
