package httpapi_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestUpdateOfOneApplication: the operating system and the other applications stay as they are.
func TestUpdateOfOneApplication(t *testing.T) {
	p, polls, servers := everything(t)
	client := p.client(&p.operator)
	path := serversPath + "a/system/:update"
	servers["a"].Offer("202610150000")
	for body, status := range map[string]int{
		`{"applications":[{"name":"nothing","trigger_update":true}]}`:                                          400,
		`{"applications":[{"name":"debug","trigger_update":false}]}`:                                           400,
		`{"os":{"trigger_update":true},"applications":[{"name":"debug","trigger_update":false}]}`:              400,
		`{"os":{"trigger_update":false},"applications":[{"name":"incus","trigger_update":false}]}`:             400,
		`{"os":{"trigger_update":false},"applications":[{"name":"debug","trigger_update":true},{"zzz":true}]}`: 400,
	} {
		require.Equal(t, status, p.call(client, "POST", path, body).ErrorCode, body)
	}
	require.Equal(t, 200, p.call(client, "POST", path, `{"os":{"name":"IncusOS","trigger_update":false},"applications":[{"name":"debug","trigger_update":true},{"name":"incus","trigger_update":false}]}`).StatusCode)
	require.Eventually(t, func() bool { return servers["a"].ApplicationVersions()["debug"] == "202610150000" }, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, "202610010000", servers["a"].ApplicationVersions()["incus"])
	running, staged := servers["a"].Version()
	require.Equal(t, "202610010000", running)
	require.Empty(t, staged)
	require.Zero(t, servers["a"].Reboots())
	_ = polls

	old := p.call(client, "POST", serversPath+"old/system/:update", `{"applications":[{"name":"incus","trigger_update":true}]}`)
	require.Equal(t, 400, old.ErrorCode)
	require.Contains(t, old.Error, "its release does not update application")
	require.Equal(t, 400, p.call(client, "POST", serversPath+"plain/system/:update", `{"applications":[{"name":"incus","trigger_update":true}]}`).ErrorCode)
}
