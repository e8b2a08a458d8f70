package opscenter_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
)

func files(text string) map[string]json.RawMessage {
	return map[string]json.RawMessage{"install": json.RawMessage(text)}
}

// TestTokenSeeds: a token has seeds, which go with it.
func TestTokenSeeds(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		token, other := w.token(t, 1), w.token(t, 1)
		made, err := w.TokenSeeds().Create(t.Context(), token, "lab", opscenter.TokenSeedSpec{Description: "of the lab", Files: files(`{"version":"1"}`)})
		require.NoError(t, err)
		require.Empty(t, made.Public)
		_, err = w.TokenSeeds().Create(t.Context(), token, "lab", opscenter.TokenSeedSpec{})
		require.ErrorIs(t, err, opscenter.ErrInUse)
		_, err = w.TokenSeeds().Create(t.Context(), other, "lab", opscenter.TokenSeedSpec{Public: true})
		require.NoError(t, err)
		list, err := w.TokenSeeds().List(t.Context(), token)
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.Equal(t, made.Files, list[0].Files)
		// A public name is random, and another one when the seed is public again.
		setPublic := func(public bool) string {
			require.NoError(t, w.TokenSeeds().Edit(t.Context(), token, "lab", func(_ *opscenter.TokenSeed, spec *opscenter.TokenSeedSpec) error {
				spec.Public = public
				return nil
			}))
			s, err := w.TokenSeeds().Get(t.Context(), token, "lab")
			require.NoError(t, err)
			require.Equal(t, "of the lab", s.Description, "a field that was not edited")
			require.Equal(t, made.Files, s.Files)
			return s.Public
		}
		first := setPublic(true)
		require.GreaterOrEqual(t, len(first), 26)
		require.Equal(t, first, setPublic(true))
		found, err := w.TokenSeeds().Public(t.Context(), first)
		require.NoError(t, err)
		require.Equal(t, "lab", found.Name)
		require.Equal(t, token, found.Token)
		require.Empty(t, setPublic(false))
		_, err = w.TokenSeeds().Public(t.Context(), first)
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		require.NotEqual(t, first, setPublic(true))
		_, err = w.TokenSeeds().Public(t.Context(), "")
		require.ErrorIs(t, err, opscenter.ErrNotFound)

		image, err := w.TokenSeeds().PrepareImage(t.Context(), opscenter.PreparedImage{Token: token, Kind: "iso", Architecture: "x86_64", Files: files(`{}`), ExpireAt: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		read, err := w.TokenSeeds().PreparedImage(t.Context(), token, image.UUID)
		require.NoError(t, err)
		require.Equal(t, "iso", read.Kind)
		_, err = w.TokenSeeds().PreparedImage(t.Context(), other, image.UUID)
		require.ErrorIs(t, err, opscenter.ErrNotFound, "it is of another token")

		require.NoError(t, w.TokenSeeds().Delete(t.Context(), other, "lab", nil))
		require.ErrorIs(t, w.TokenSeeds().Delete(t.Context(), other, "lab", nil), opscenter.ErrNotFound)
		require.NoError(t, w.RevokeToken(t.Context(), token))
		for _, err := range []error{errorOf(w.TokenSeeds().List(t.Context(), token)), errorOf(w.TokenSeeds().Get(t.Context(), token, "lab")), errorOf(w.TokenSeeds().PreparedImage(t.Context(), token, image.UUID))} {
			require.ErrorIs(t, err, opscenter.ErrNotFound)
			requireNoSecret(t, err.Error(), token)
		}
		requireNoSecret(t, w.log.String(), token)
	})
}

func errorOf[T any](_ T, err error) error { return err }

// TestBadTokenSeeds are refused, and change nothing.
func TestBadTokenSeeds(t *testing.T) {
	w := memoryWorld(t)
	token := w.token(t, 1)
	for _, c := range []struct {
		token, name string
		spec        opscenter.TokenSeedSpec
		want        error
	}{
		{"x", "lab", opscenter.TokenSeedSpec{}, opscenter.ErrTokenMalformed},
		{"00000000-0000-4000-8000-000000000000", "lab", opscenter.TokenSeedSpec{}, opscenter.ErrNotFound},
		{token, "", opscenter.TokenSeedSpec{}, opscenter.ErrInvalidName},
		{token, "a/b", opscenter.TokenSeedSpec{}, opscenter.ErrInvalidName},
		{token, "lab", opscenter.TokenSeedSpec{Description: strings.Repeat("x", opscenter.MaxDescriptionLength+1)}, opscenter.ErrTooLong},
		{token, "lab", opscenter.TokenSeedSpec{Files: files(`{"x":`)}, opscenter.ErrInvalidOptions},
		{token, "lab", opscenter.TokenSeedSpec{Files: files(`"` + strings.Repeat("x", opscenter.MaxSeedSize) + `"`)}, opscenter.ErrTooLong},
	} {
		_, err := w.TokenSeeds().Create(t.Context(), c.token, c.name, c.spec)
		require.ErrorIs(t, err, c.want, c.name)
	}
	for i := range opscenter.MaxTokenSeeds {
		_, err := w.TokenSeeds().Create(t.Context(), token, fmt.Sprint("seed", i), opscenter.TokenSeedSpec{})
		require.NoError(t, err)
	}
	_, err := w.TokenSeeds().Create(t.Context(), token, "more", opscenter.TokenSeedSpec{})
	require.ErrorIs(t, err, opscenter.ErrTooLong)
	list, err := w.TokenSeeds().List(t.Context(), token)
	require.NoError(t, err)
	require.Len(t, list, opscenter.MaxTokenSeeds)
}
