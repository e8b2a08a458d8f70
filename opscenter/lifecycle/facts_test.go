package lifecycle_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestFactsSize(t *testing.T) {
	facts := lifecycle.Facts{Hardware: json.RawMessage(`{"a":1}`), Network: json.RawMessage(`{}`), Security: json.RawMessage(`[]`), Storage: json.RawMessage(`1`)}
	require.Equal(t, 12, facts.Size())
}
