package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// childVariable makes the test binary the program, with the arguments in it.
const childVariable = "OPSCENTER_TEST_ROLLINGUPDATE"

func TestMain(m *testing.M) {
	if args := os.Getenv(childVariable); args != "" {
		if err := run(context.Background(), strings.Fields(args), os.Stdout); err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestPlanOnly(t *testing.T) {
	var out bytes.Buffer
	dir := t.TempDir()
	for range 2 { // it changes nothing
		out.Reset()
		require.NoError(t, run(t.Context(), strings.Fields("-clusters 1 -members 2 -plan -data "+dir), &out))
		require.Contains(t, out.String(), "Plan: update, 8 steps, 2 servers")
		require.Contains(t, out.String(), "incus, os 202610010000 → 202610150000")
		require.NotContains(t, out.String(), "running")
	}
}

func TestWholeUpdate(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), strings.Fields("-clusters 2 -members 2"), &out))
	require.Contains(t, out.String(), "done: 16 steps")
}

// TestFaultIsSaid: it stops where it is, says what to do, and goes on once the fault is gone.
func TestFaultIsSaid(t *testing.T) {
	var out bytes.Buffer
	args := "-clusters 1 -members 2 -data " + t.TempDir()
	err := run(t.Context(), strings.Fields(args+" -fault reboot-never-returns"), &out)
	require.ErrorContains(t, err, "reboot of server c1-m2 in cluster c1")
	require.ErrorContains(t, err, "What to do: look at the server's console")
	out.Reset()
	require.NoError(t, run(t.Context(), strings.Fields(args), &out), out.String())
	require.Contains(t, out.String(), "It was paused")
	require.Contains(t, out.String(), "done: 7 steps", "the reboot was done, late, and is not repeated")
}

func TestBadFlags(t *testing.T) {
	for _, args := range []string{"-fault nonsense", "-clusters 0", "-nonsense"} {
		require.Error(t, run(t.Context(), strings.Fields(args), &bytes.Buffer{}), args)
	}
}

// output is what the program has said so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) has(text string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Contains(o.text.String(), text)
}

// TestKilled kills the program in the middle, again and again: run once more with the same
// data it goes on, and finishes.
func TestKilled(t *testing.T) {
	args := "-clusters 2 -members 3 -data " + t.TempDir()
	start := func() (*exec.Cmd, *output, chan error) {
		command := exec.Command(os.Args[0], "-test.run=^$")
		command.Env = append(os.Environ(), childVariable+"="+args)
		out := &output{}
		command.Stdout, command.Stderr = out, out
		require.NoError(t, command.Start())
		ended := make(chan error, 1)
		go func() { ended <- command.Wait() }()
		return command, out, ended
	}
	for _, at := range []string{"update of c1-m2", "evacuate of c1-m1", "reboot of c1-m1", "restore of c2-m2"} {
		command, out, ended := start()
		require.Eventually(t, func() bool { return out.has(at) }, time.Minute, time.Millisecond, at)
		require.NoError(t, command.Process.Kill())
		<-ended
	}
	_, out, ended := start()
	require.NoError(t, <-ended, out.text.String())
	require.True(t, out.has("Going on with rollout"))
	// The simulated servers are in the program, so a kill cuts their power, too. A server that comes back with its staged
	// version needs no reboot any more: each of the four kills may save that step.
	require.Regexp(t, `\ndone: 2[0-4] steps`, out.text.String())
}
