package release_test

import (
	"encoding/json"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/release"
)

func TestFrequency(t *testing.T) {
	for data, want := range map[string]release.Frequency{`"never"`: "never", `"6h"`: "6h", `21600000000000`: "6h0m0s", `null`: "", `{}`: "", `-1`: "", `true`: "", `1e300`: ""} {
		got := release.Frequency("before")
		require.NoError(t, json.Unmarshal([]byte(data), &got), data)
		require.Equal(t, want, got, data)
	}
	// A frequency survives Nanoseconds and UnmarshalJSON.
	for _, f := range []release.Frequency{"never", "6h0m0s"} {
		n, err := f.Nanoseconds()
		require.NoError(t, err)
		var got release.Frequency
		require.NoError(t, json.Unmarshal([]byte(strconv.FormatInt(n, 10)), &got))
		require.Equal(t, f, got)
	}
	_, err := release.Frequency("often").Nanoseconds()
	require.ErrorContains(t, err, "often")
}

func TestBefore(t *testing.T) {
	require.True(t, release.Before("202607160000", release.SecurityReads))
	require.False(t, release.Before("202608160000", release.SecurityReads))
	require.True(t, release.Has("202608160000", release.SecurityReads))
	for _, odd := range []string{"", "none", "-1"} { // an unknown version is neither
		require.False(t, release.Before(odd, release.SecurityReads), odd)
		require.False(t, release.Has(odd, release.SecurityReads), odd)
	}
}
