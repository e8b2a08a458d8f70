package opscenter

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

func BenchmarkFactsDigest(b *testing.B) {
	f := &Facts{Hardware: incusostest.Hardware(1)}
	b.SetBytes(int64(f.Size()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.digest(false); err != nil {
			b.Fatal(err)
		}
	}
}

// What runs by itself on a real server is no change: names of IncusOS's API and Incus's resources.
func TestVolatileFacts(t *testing.T) {
	digest := func(network string) factsDigest {
		d, err := (&Facts{Network: json.RawMessage(network)}).digest(false)
		require.NoError(t, err)
		return d
	}
	const before, after = `{"config":{"mtu":1500},"state":{"x":[{"steady":1,"KEY":1}]}}`, `{"config":{"mtu":1500},"state":{"x":[{"KEY":{"any":[2]},"steady":1}]}}`
	replace := func(text, key string) string {
		data, err := json.Marshal(key)
		require.NoError(t, err)
		return strings.ReplaceAll(text, `"KEY"`, string(data))
	}
	for _, key := range []string{"stats", "counters", "uptime", "load", "used", "free", "usage_in_bytes", "available_in_bytes", "pool_allocated_space_in_bytes",
		"latest_handshake", "power_on_hours", "raw_read_error_rate", "ttl", "age", "last_check", "progress", "password", "wireguard_private_key"} {
		require.Equal(t, digest(replace(before, key)), digest(replace(after, key)), key)
	}
	for _, key := range []string{"mtu", "used_by", "freedom", "total", "public_key", "state", "addresses"} {
		require.NotEqual(t, digest(replace(before, key)), digest(replace(after, key)), key)
	}
}
