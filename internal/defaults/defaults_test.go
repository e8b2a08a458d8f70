package defaults_test

import (
	"errors"
	"testing"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/stretchr/testify/require"
)

func TestFill(t *testing.T) {
	invalid := errors.New("invalid options")
	count, size, wait, kept := 0, int64(0), time.Duration(0), 7
	require.NoError(t, defaults.Fill(invalid, defaults.Of("Count", &count, 3), defaults.Of("Size", &size, int64(1<<40)),
		defaults.Of("Wait", &wait, time.Minute), defaults.Of("Kept", &kept, 1)))
	require.Equal(t, []any{3, int64(1 << 40), time.Minute, 7}, []any{count, size, wait, kept})

	count, wait = 0, -time.Second
	err := defaults.Fill(invalid, defaults.Of("Wait", &wait, time.Minute), defaults.Of("Count", &count, 3))
	require.ErrorIs(t, err, invalid)
	require.EqualError(t, err, "Wait is -1s, it must not be negative: invalid options")
	kept = -1
	require.EqualError(t, defaults.Fill(invalid, defaults.Of("Kept", &kept, 1)), "Kept is -1, it must not be negative: invalid options")
}
