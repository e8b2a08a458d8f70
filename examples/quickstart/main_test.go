package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuickstart(t *testing.T) {
	var out bytes.Buffer
	begun := time.Now()
	require.NoError(t, run(t.Context(), nil, &out))
	require.Less(t, time.Since(begun), 30*time.Second)
	text := out.String()
	for _, column := range []string{"NAME", "TYPE", "STATUS", "VERSION", "NEEDS UPDATE", "NEEDS REBOOT", "IN MAINTENANCE", "RECOMMENDED ACTION", "WHY"} {
		require.Contains(t, text, column)
	}
	require.Equal(t, 5, strings.Count(text, "  incus  ")+strings.Count(text, "  migration-manager  "))
	require.Contains(t, text, "offline (unresponsive)")
	// The way through the update, in its order.
	at := 0
	for _, step := range []string{"\n  update: ", "\n  evacuate: ", "\n  reboot: ", "\n  restore: ", "\n  none: everything is up to date", "server01 runs 202610150000 now, and is ready."} {
		i := strings.Index(text[at:], step)
		require.GreaterOrEqual(t, i, 0, "%q is missing, or out of order in:\n%s", step, text)
		at += i
	}
}

func TestQuickstartOnDiskAsJSON(t *testing.T) {
	dir := t.TempDir()
	last := ""
	for range 2 { // the second run finds the servers and the updates of the first, and publishes newer ones
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), []string{"-servers", "4", "-data", dir, "-json"}, &out))
		var told struct {
			Servers []row  `json:"servers"`
			Steps   []step `json:"steps"`
			Result  row    `json:"result"`
		}
		require.NoError(t, json.Unmarshal(out.Bytes(), &told))
		require.Len(t, told.Servers, 4)
		require.Len(t, told.Steps, 4)
		require.Greater(t, told.Result.Version, last)
		last = told.Result.Version
		require.Equal(t, "none", told.Result.RecommendedAction)
	}
}

func TestQuickstartRefusesBadFlags(t *testing.T) {
	require.ErrorContains(t, run(t.Context(), []string{"-servers", "1"}, &bytes.Buffer{}), "-servers is 1")
	require.Error(t, run(t.Context(), []string{"-data", "/dev/null"}, &bytes.Buffer{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, run(ctx, nil, &bytes.Buffer{}), context.Canceled)
}
