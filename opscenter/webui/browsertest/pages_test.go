package browsertest

import (
	"testing"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/stretchr/testify/require"
)

// TestEachPage loads each page, in light and dark and on a phone.
func TestEachPage(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{Members: 3, Single: 2})
	w.Servers["s2"].PowerOff("")
	token, err := w.Registry.CreateToken(t.Context(), opscenter.TokenSpec{Description: "rack 7", Uses: 12})
	require.NoError(t, err)
	started, err := w.Rollouts.Start(t.Context(), rolling.Selector{Servers: []string{"s1"}}, rolling.Policy{})
	require.NoError(t, err)
	b := open(t, w).logIn(access.RoleAdmin)
	w.ReadInventory(4)
	for _, path := range []string{"/", "/servers", "/servers?filter=name+%3D%3D+", "/servers?status=unknown", "/servers/m1", "/servers/s1", "/servers/m1/network", "/clusters", "/clusters/c1",
		"/rollouts", "/rollouts/new?all=1", "/rollouts/" + started.ID, "/inventory", "/inventory?search=web", "/inventory?search=none+has+this", "/updates", "/updates/" + w.Updates.Snapshot().Updates()[0].UUID,
		"/tokens", "/tokens/" + token.UUID, "/warnings", "/audit", "/servers/none"} {
		b.visit(path)
		if path != "/servers/none" { // it is answered 404, which the browser notes
			b.quiet(path)
		}
		b.picture(name(path))
		b.accessible(path)
		b.problems = nil
	}
}
