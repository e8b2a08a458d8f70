package opscenter_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestSecretsByAnyName(t *testing.T) {
	for _, key := range []string{"wakeonlan_password", "Password", "encryption_key", "server_token", "PRIVATE_KEY", "pool_recovery_keys"} {
		out, err := facts.RedactSecrets(json.RawMessage(fmt.Sprintf(`{"a":[{%q:"hunter2","kept":1}]}`, key)))
		require.NoError(t, err)
		require.JSONEq(t, `{"a":[{"kept":1}]}`, string(out), key)
	}
	kept := `{"encryption_recovery_keys_retrieved":true,"tpm_public_key":"p","public_key":"q"}`
	out, err := facts.RedactSecrets(json.RawMessage(kept))
	require.NoError(t, err)
	require.Equal(t, kept, string(out))
}

// A store that kept secrets, and is opened by one that does not.
func TestSecretsOfAnEarlierTime(t *testing.T) {
	store := memstore.New()
	security := func(secret string, n int) *lifecycle.Facts {
		return &lifecycle.Facts{Security: json.RawMessage(fmt.Sprintf(`{"config":{"encryption_recovery_keys":[%q],"n":%d},"more":{"password":%q}}`, secret, n, secret))}
	}
	see := func(w *world, facts *lifecycle.Facts) {
		info := w.get(t, "server00")
		o := answer(info)
		o.Facts = facts
		w.observe(t, o)
	}
	keeping, err := opscenter.NewRegistry(store, opscenter.Options{KeepSecrets: true})
	require.NoError(t, err)
	w := &world{Registry: keeping, store: store, log: &controltest.Log{}}
	w.ready(t, 0)
	see(w, security("hunter1", 1))
	see(w, security("hunter2", 1))
	history, err := w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(history), "hunter2", "where they are kept, a change of them is one")

	w = newWorld(t, store, opscenter.Options{})
	facts, err := w.ServerFacts(t.Context(), "server00")
	require.NoError(t, err)
	requireNoSecret(t, string(facts.Security), "hunter")
	see(w, security("hunter3", 2))
	history, err = w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	requireNoSecret(t, fmt.Sprint(history), "hunter")
	require.Equal(t, []lifecycle.FieldChange{{Path: "security.config.n", From: "1", To: "2"}}, history[0].Changes)
	require.Len(t, history, 2)
}

// A document made to be slow to compare is not.
func TestFactsMadeToBeSlow(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	document := func(n int) string {
		return fmt.Sprintf(`{%q:[%s]}`, strings.Repeat("k", 150<<10), strings.TrimSuffix(strings.Repeat(fmt.Sprint(n, ","), 90_000), ","))
	}
	w.observe(t, withFacts(answer(info), document(1)))
	begun := time.Now()
	w.observe(t, withFacts(answer(info), document(2)))
	require.Less(t, time.Since(begun), time.Minute)
	history, err := w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Len(t, history[0].Changes, lifecycle.MaxFactChanges)
	require.Less(t, len(history[0].Changes[0].Path), 300)
}
