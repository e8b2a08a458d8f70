package httpapi_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// TestRefusedInTheMiddle: 4xx means that nothing was changed. A refusal after a step was done, or recorded, is 502.
func TestRefusedInTheMiddle(t *testing.T) {
	for _, refusal := range []error{cluster.ErrUnsuitable, opscenter.ErrBusy, opscenter.ErrNotFound, opscenter.ErrClustered} {
		before := httpapi.StatusOf(&cluster.Error{Step: "look at a", Err: refusal})
		require.GreaterOrEqual(t, before, 400)
		require.Less(t, before, 500, "%v", refusal)
		require.Equal(t, 502, httpapi.StatusOf(&cluster.Error{Step: "let b join", Recorded: true, Err: refusal}), "%v", refusal)
		require.Equal(t, 502, httpapi.StatusOf(fmt.Errorf("x: %w", &cluster.Error{Done: []string{"remove member a"}, Err: refusal})), "%v", refusal)
		require.Equal(t, 502, httpapi.StatusOf(fmt.Errorf("%w: %w", system.ErrStopped, refusal)), "%v", refusal)
	}
	require.Equal(t, 504, httpapi.StatusOf(fmt.Errorf("%w: %w", system.ErrStopped, system.ErrLost)))
	require.Equal(t, 504, httpapi.StatusOf(&cluster.Error{Recorded: true, Err: opscenter.ErrOutcomeUnknown}))
	require.Equal(t, 500, httpapi.StatusOf(errors.New("a fault of ours")))
}
