package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestExample: a change that would lock us out is undone by itself, and a cluster stops at it.
func TestExample(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-timeout", "2s"}, &out), out.String())
	text := out.String()
	t.Log(text)
	for _, line := range []string{"  ~ interfaces[mgmt].addresses: ", "  done after ", "  rolled back after ", "  server02: rolled back", "  server03: left untouched",
		"  the example: network.apply of c1: failed"} {
		require.Contains(t, text, line)
	}
	require.Equal(t, 2, strings.Count(text, "  server01: done\n"))
}

func TestArguments(t *testing.T) {
	require.ErrorContains(t, run(t.Context(), []string{"-timeout", "1ms"}, &bytes.Buffer{}), "-timeout is 1ms")
	require.NoError(t, run(t.Context(), []string{"-help"}, &bytes.Buffer{}))
	require.Error(t, run(t.Context(), []string{"-unknown"}, &bytes.Buffer{}))
}
