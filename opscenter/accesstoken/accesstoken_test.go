package accesstoken_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func open(t testing.TB, store storage.Store, options accesstoken.Options) *accesstoken.Tokens {
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = registry.Close() })
	tokens, err := accesstoken.New(registry, options)
	require.NoError(t, err)
	return tokens
}

func viewer(name string) accesstoken.Spec {
	return accesstoken.Spec{Name: name, Grant: access.Grant{Role: access.RoleViewer}}
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := open(t, memstore.New(), accesstoken.Options{MaxTokens: 3})
		ctx := opscenter.WithPrincipal(t.Context(), "alice")
		scoped := accesstoken.Spec{Name: "ci", Grant: access.Grant{Role: access.RoleOperator, Scope: access.Scope{Channels: []string{"edge"}}}}
		made, secret, err := tokens.Create(ctx, scoped)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(secret, accesstoken.Prefix))
		require.GreaterOrEqual(t, len(secret), 26+len(accesstoken.Prefix))
		require.Equal(t, "alice", made.CreatedBy)
		require.Equal(t, accesstoken.DefaultLifetime, made.ExpireAt.Sub(made.CreatedAt))
		p, err := tokens.Principal(t.Context(), secret)
		require.NoError(t, err)
		require.Equal(t, access.Principal{Name: "access token ci", Grant: scoped.Grant}, p)
		for _, wrong := range []string{"", accesstoken.Prefix, secret[:len(secret)-1], secret + "x", made.UUID, strings.ToLower(secret)} {
			_, err := tokens.Principal(t.Context(), wrong)
			require.ErrorIs(t, err, access.ErrForbidden, wrong)
			if wrong != "" {
				require.NotContains(t, err.Error(), wrong)
			}
		}
		_, _, err = tokens.Create(ctx, viewer("ci"))
		require.ErrorIs(t, err, opscenter.ErrNameTaken)
		short := viewer("short")
		short.ExpireAt = time.Now().Add(time.Hour)
		_, brief, err := tokens.Create(ctx, short)
		require.NoError(t, err)
		_, _, err = tokens.Create(ctx, viewer("third"))
		require.NoError(t, err)
		_, _, err = tokens.Create(ctx, viewer("fourth"))
		require.ErrorIs(t, err, accesstoken.ErrTooMany)
		time.Sleep(time.Hour)
		_, err = tokens.Principal(t.Context(), brief)
		require.ErrorIs(t, err, access.ErrForbidden)
		require.Contains(t, err.Error(), "expired")
		_, _, err = tokens.Create(ctx, viewer("short"))
		require.NoError(t, err, "it replaces the expired one")
		list, err := tokens.List(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 3)
		require.Equal(t, "ci", list[0].Name)
		got, err := tokens.Get(t.Context(), made.UUID)
		require.NoError(t, err)
		require.Equal(t, made, got)
		data, err := json.Marshal(list)
		require.NoError(t, err)
		require.NotContains(t, string(data), secret)
		require.NoError(t, tokens.Revoke(t.Context(), made.UUID))
		_, err = tokens.Principal(t.Context(), secret)
		require.ErrorIs(t, err, access.ErrForbidden)
		require.ErrorIs(t, tokens.Revoke(t.Context(), made.UUID), opscenter.ErrNotFound)
		_, err = tokens.Get(t.Context(), made.UUID)
		require.ErrorIs(t, err, opscenter.ErrNotFound)
	})
}

func TestInvalid(t *testing.T) {
	tokens := open(t, memstore.New(), accesstoken.Options{MaxLifetime: time.Hour})
	made, _, err := tokens.Create(t.Context(), viewer("short"))
	require.NoError(t, err)
	require.Equal(t, time.Hour, made.ExpireAt.Sub(made.CreatedAt), "the default is bounded, too")
	past, long := viewer("x"), viewer("x")
	past.ExpireAt, long.ExpireAt = time.Now().Add(-time.Second), time.Now().Add(2*time.Hour)
	for _, spec := range []accesstoken.Spec{viewer(""), viewer("a\nb"), viewer("a\x1b[31m"), viewer(" a"), viewer("\xff"), viewer(strings.Repeat("x", accesstoken.MaxName+1)), {Name: "x"},
		{Name: "x", Grant: access.Grant{Role: "owner"}}, past, long} {
		_, secret, err := tokens.Create(t.Context(), spec)
		require.ErrorIs(t, err, accesstoken.ErrInvalid, "%+v", spec)
		require.Empty(t, secret)
	}
	list, err := tokens.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1, "what was refused changed nothing")
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	require.NoError(t, err)
	for _, options := range []accesstoken.Options{{MaxLifetime: -1}, {MaxTokens: -1}} {
		_, err := accesstoken.New(registry, options)
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
	}
}

// TestOnDisk: tokens outlive the program, and the files hold no secret.
func TestOnDisk(t *testing.T) {
	dir := t.TempDir()
	store, err := badgerstore.Open(dir)
	require.NoError(t, err)
	tokens := open(t, store, accesstoken.Options{})
	_, secret, err := tokens.Create(t.Context(), viewer("ci"))
	require.NoError(t, err)
	require.NoError(t, store.Close())
	found := false
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found = found || bytes.Contains(data, []byte("access_tokens"))
		require.NotContains(t, string(data), secret[len(accesstoken.Prefix):], path)
		return err
	}))
	require.True(t, found, "the files are searched as they are")
	store, err = badgerstore.Open(dir)
	require.NoError(t, err)
	defer store.Close()
	p, err := open(t, store, accesstoken.Options{}).Principal(t.Context(), secret)
	require.NoError(t, err)
	require.Equal(t, "access token ci", p.Name)
}
