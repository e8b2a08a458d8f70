package rolling_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// TestEqualMembers: members are equal to their copies, and each field makes a difference.
func TestEqualMembers(t *testing.T) {
	at := time.Date(2026, 10, 15, 0, 0, 0, 0, time.UTC)
	values := map[reflect.Type]any{reflect.TypeFor[string](): "x", reflect.TypeFor[bool](): true, reflect.TypeFor[int](): 1, reflect.TypeFor[time.Time](): at,
		reflect.TypeFor[lifecycle.Action](): lifecycle.ActionReboot, reflect.TypeFor[map[string]string](): map[string]string{"os": "1"},
		reflect.TypeFor[*rolling.Step](): &rolling.Step{ID: "1"}, reflect.TypeFor[[]rolling.Done](): []rolling.Done{{Why: "it was asked for"}}}
	full := rolling.Member{}
	kind := reflect.TypeFor[rolling.Member]()
	for i := range kind.NumField() {
		field := kind.Field(i)
		if !field.IsExported() {
			continue
		}
		value, ok := values[field.Type]
		require.True(t, ok, field.Name)
		one := rolling.Member{}
		reflect.ValueOf(&one).Elem().Field(i).Set(reflect.ValueOf(value))
		reflect.ValueOf(&full).Elem().Field(i).Set(reflect.ValueOf(value))
		require.False(t, one.Equal(&rolling.Member{}), field.Name)
		require.False(t, (&rolling.Member{}).Equal(&one), field.Name)
	}
	unit := rolling.Unit{Members: []rolling.Member{full}}
	copied := unit.Clone()
	require.True(t, full.Equal(&copied.Members[0]))
	copied.Members[0].Step.Epoch++
	require.False(t, full.Equal(&copied.Members[0]))
}
