package incusostest_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

// TestNetworkChange takes several loopback addresses, which only Linux has.
func TestNetworkChange(t *testing.T) {
	c := boot(t, incusostest.Options{})
	var before struct {
		Config map[string]any `json:"config"`
	}
	c.get("/os/1.0/system/network", &before)
	old := c.server.URL()
	require.True(t, strings.HasSuffix(old, ":8443"), "no loopback address of its own: %s", old)
	change := func(host, timeout string) string {
		data, err := json.Marshal(before)
		require.NoError(t, err)
		text := strings.ReplaceAll(string(data), strings.TrimSuffix(strings.TrimPrefix(old, "https://"), ":8443"), host)
		return strings.Replace(text, `{"config":{`, `{"config":{"confirmation_timeout":"`+timeout+`",`, 1)
	}
	require.Equal(t, 400, c.call("PUT", "/os/1.0/system/network", `{"config":{}}`).ErrorCode, "no device at all")
	require.Equal(t, 400, c.call("PUT", "/os/1.0/system/network", change("127.254.1.1", "soon")).ErrorCode)
	require.Equal(t, 400, c.call("POST", "/os/1.0/system/network/:confirm", "").ErrorCode, "nothing is pending")

	// Without a confirmation, the server moves, and moves back after the timeout.
	move := func(host, timeout string) {
		t.Helper()
		// The answer may be lost, because the address changes.
		if answer, err := c.try("PUT", "/os/1.0/system/network", change(host, timeout)); err == nil {
			require.Equal(t, "sync", answer.Type)
		}
	}
	move("127.254.1.1", "300ms")
	require.Eventually(t, func() bool { return c.server.URL() == "https://127.254.1.1:8443" }, 5*time.Second, time.Millisecond)
	require.Equal(t, 400, c.call("PUT", "/os/1.0/system/network", change("127.254.1.2", "1m")).ErrorCode, "a change is pending")
	require.Eventually(t, func() bool { return c.server.URL() == old }, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, "sync", c.call("GET", "/os/1.0", "").Type)
	// After a confirmation, the server stays at its new address.
	move("127.254.1.3", "1m")
	require.Eventually(t, func() bool { return c.server.URL() == "https://127.254.1.3:8443" }, 5*time.Second, time.Millisecond)
	require.Equal(t, "sync", c.call("POST", "/os/1.0/system/network/:confirm", "").Type)
	var after struct {
		State struct {
			Pending bool `json:"configuration_in_process"`
		} `json:"state"`
	}
	c.get("/os/1.0/system/network", &after)
	require.False(t, after.State.Pending)
	require.NoError(t, c.server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
	_, err := c.try("GET", "/", "")
	require.Error(t, err)
}
