package opscenter_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestEventsBefore: Before and After bound the events in both orders.
func TestEventsBefore(t *testing.T) {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	require.NoError(t, err)
	defer registry.Close()
	for i := range 6 {
		require.NoError(t, registry.Channels().Create(t.Context(), fmt.Sprint("c", i), ""))
	}
	all, err := registry.ListEvents(t.Context(), opscenter.EventFilter{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), 6)
	for from := range all {
		for to := range all {
			for _, newest := range []bool{false, true} {
				got, err := registry.ListEvents(t.Context(), opscenter.EventFilter{After: all[from].Sequence, Before: all[to].Sequence, Newest: newest})
				require.NoError(t, err)
				require.Len(t, got, max(0, to-from-1), "%d to %d", from, to)
				for i, e := range got {
					at := from + 1 + i
					if newest {
						at = to - 1 - i
					}
					require.Equal(t, all[at], e)
				}
			}
		}
	}
	for _, name := range []string{"a", "b"} {
		require.NoError(t, func() error {
			_, err := registry.PreRegister(t.Context(), opscenter.PreRegistration{Name: name, MachineID: machineID(len(name) + int(name[0]))})
			return err
		}())
	}
	for range 3 {
		for _, name := range []string{"a", "b"} {
			require.NoError(t, registry.EditServer(t.Context(), name, func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
				spec.Description += "x"
				return nil
			}))
		}
	}
	of, err := registry.ListEvents(t.Context(), opscenter.EventFilter{Server: "a"})
	require.NoError(t, err)
	require.Len(t, of, 4)
	for to := range of {
		got, err := registry.ListEvents(t.Context(), opscenter.EventFilter{Server: "a", Before: of[to].Sequence, Newest: true})
		require.NoError(t, err)
		require.Len(t, got, to)
		for i, e := range got {
			require.Equal(t, of[to-1-i], e)
		}
	}
}
