package jsonsecret_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/jsonsecret"
)

func secret(name string) bool { return strings.HasSuffix(name, "password") }

func TestHideAndRestore(t *testing.T) {
	const doc = `{"a":{"password":"x"},"list":[{"name":"n","password":"y"},{"name":"m","password":""}],"bare":[{"password":["z"]}],"open":1.50}`
	hidden, err := jsonsecret.Hide([]byte(doc), secret)
	require.NoError(t, err)
	for _, value := range []string{`"x"`, `"y"`, `"z"`} {
		require.NotContains(t, string(hidden), value)
	}
	require.Equal(t, 3, strings.Count(string(hidden), jsonsecret.Hidden))
	back, missing, err := jsonsecret.Restore(hidden, []byte(doc), secret)
	require.NoError(t, err)
	require.Empty(t, missing)
	require.JSONEq(t, doc, string(back))
	require.ElementsMatch(t, []string{"x", "y", "z"}, jsonsecret.Values([]byte(doc), secret))
	// Entries match by name, at any index. A secret without a match is missing.
	back, missing, err = jsonsecret.Restore([]byte(`{"list":[{"name":"other","password":"(hidden)"},{"name":"n","password":"(hidden)"}]}`), []byte(doc), secret)
	require.NoError(t, err)
	require.Equal(t, "list[0].password", missing)
	require.JSONEq(t, `{"list":[{"name":"other","password":"(hidden)"},{"name":"n","password":"y"}]}`, string(back))
	back, _, err = jsonsecret.Restore([]byte(`{"a":{"password":"(removed)"}}`), []byte(doc), secret)
	require.NoError(t, err)
	require.JSONEq(t, `{"a":{}}`, string(back))
	same, err := jsonsecret.Hide([]byte(`{ "open" : 1 }`), secret)
	require.NoError(t, err)
	require.Equal(t, `{ "open" : 1 }`, string(same), "a document without secrets is unchanged")
	_, err = jsonsecret.Hide([]byte(`{`), secret)
	require.Error(t, err)
}
