package opscenter_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestTokens(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		token, err := w.CreateToken(t.Context(), opscenter.TokenSpec{})
		require.NoError(t, err)
		require.EqualValues(t, 1, token.UsesRemaining)
		require.Equal(t, "stable", token.Channel)
		require.WithinDuration(t, time.Now().Add((24 * time.Hour)), token.ExpireAt, time.Minute)
		for name, spec := range map[string]opscenter.TokenSpec{
			"expired":    {ExpireAt: time.Now().Add(-time.Second)},
			"negative":   {Uses: -1},
			"too many":   {Uses: opscenter.MaxTokenUses + 1},
			"too long":   {Description: strings.Repeat("x", opscenter.MaxDescriptionLength+1)},
			"no channel": {Channel: "nowhere"},
		} {
			_, err := w.CreateToken(t.Context(), spec)
			require.Error(t, err, name)
			switch name {
			case "too long":
				require.ErrorIs(t, err, opscenter.ErrTooLong)
			case "no channel":
				require.ErrorIs(t, err, opscenter.ErrNotFound)
				require.ErrorContains(t, err, "nowhere")
			default:
				require.ErrorIs(t, err, opscenter.ErrInvalidToken, name)
			}
		}
		refused := errors.New("refused")
		require.ErrorIs(t, w.UpdateToken(t.Context(), token.UUID, opscenter.TokenSpec{Uses: 7}, func(*opscenter.Token) error { return refused }), refused)
		require.NoError(t, w.UpdateToken(t.Context(), strings.ToUpper(token.UUID), opscenter.TokenSpec{Uses: 7, Description: "seven"}, nil))
		got, err := w.Token(t.Context(), token.UUID)
		require.NoError(t, err)
		require.EqualValues(t, 7, got.UsesRemaining)
		require.Equal(t, token.ExpireAt, got.ExpireAt)

		// Expired, unknown and malformed tokens admit no server.
		past := time.Now().Add(-time.Minute)
		require.NoError(t, w.UpdateToken(t.Context(), token.UUID, opscenter.TokenSpec{Uses: 7, ExpireAt: past}, nil))
		for secret, want := range map[string]error{
			token.UUID:                               opscenter.ErrTokenExpired,
			"b32d0079-c48b-4957-b1cb-bef54125c861":   opscenter.ErrTokenUnknown,
			"b32d0079c48b4957b1cbbef54125c861":       opscenter.ErrTokenMalformed,
			"":                                       opscenter.ErrTokenMalformed,
			"{b32d0079-c48b-4957-b1cb-bef54125c861}": opscenter.ErrTokenMalformed,
		} {
			_, err := w.Register(t.Context(), registration(0, secret))
			require.ErrorIs(t, err, want)
			if secret != "" {
				requireNoSecret(t, err.Error(), secret)
			}
		}
		require.NoError(t, w.RevokeToken(t.Context(), token.UUID))
		for _, err := range []error{w.RevokeToken(t.Context(), token.UUID), w.UpdateToken(t.Context(), token.UUID, opscenter.TokenSpec{}, nil)} {
			require.ErrorIs(t, err, opscenter.ErrNotFound)
			requireNoSecret(t, err.Error(), token.UUID)
		}

		var want []string
		for range 25 {
			want = append(want, w.token(t, 1))
		}
		var listed []string
		page := opscenter.Page{Limit: 10}
		for {
			found, err := w.Registry.ListTokens(t.Context(), page)
			require.NoError(t, err)
			for _, token := range found.Tokens {
				listed = append(listed, token.UUID)
			}
			if page.Cursor = found.Next; page.Cursor == "" {
				break
			}
			require.Len(t, found.Tokens, 10)
			text, err := base64.RawURLEncoding.DecodeString(page.Cursor)
			require.NoError(t, err)
			requireNoSecret(t, string(text), listed[len(listed)-1])
		}
		require.Equal(t, want, listed, "the oldest first")
		for _, secret := range want {
			requireNoSecret(t, w.log.String(), secret)
		}
		all, err := w.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
		require.NoError(t, err)
		for _, e := range all {
			requireNoSecret(t, e.Reason, token.UUID)
		}
	})
}

// TestSpentTokens: a token that says so is removed a while after it admits no more servers, and images of it go when they expire.
func TestSpentTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		defer store.Close()
		w, err := opscenter.NewRegistry(store, opscenter.Options{TokenRetention: time.Hour})
		require.NoError(t, err)
		create := func(spec opscenter.TokenSpec) string {
			token, err := w.CreateToken(t.Context(), spec)
			require.NoError(t, err)
			_, err = w.TokenSeeds().Create(t.Context(), token.UUID, "lab", opscenter.TokenSeedSpec{})
			require.NoError(t, err)
			return token.UUID
		}
		used, expires := create(opscenter.TokenSpec{Uses: 1, AutoRemove: true}), create(opscenter.TokenSpec{ExpireAt: time.Now().Add(time.Hour), AutoRemove: true})
		kept, again := create(opscenter.TokenSpec{Uses: 1}), create(opscenter.TokenSpec{Uses: 1, AutoRemove: true})
		for i, token := range []string{used, kept, again} {
			_, err := w.Register(t.Context(), registration(i, token))
			require.NoError(t, err)
		}
		for range opscenter.MaxPreparedImages + 5 {
			time.Sleep(time.Microsecond)
			_, err = w.TokenSeeds().PrepareImage(t.Context(), opscenter.PreparedImage{Token: expires, ExpireAt: time.Now().Add(30 * time.Minute)})
			require.NoError(t, err)
		}
		_, err = w.TokenSeeds().PrepareImage(t.Context(), opscenter.PreparedImage{Token: used, ExpireAt: time.Now().Add(30 * time.Minute)})
		require.ErrorIs(t, err, opscenter.ErrTokenExhausted)
		image, err := w.TokenSeeds().PrepareImage(t.Context(), opscenter.PreparedImage{Token: expires, ExpireAt: time.Now().Add(30 * time.Minute)})
		require.NoError(t, err)
		require.NoError(t, w.EditToken(t.Context(), again, func(_ *opscenter.Token, spec *opscenter.TokenSpec) error { spec.Uses = 1; return nil }))
		time.Sleep(61 * time.Minute)
		_, err = w.TokenSeeds().PreparedImage(t.Context(), expires, image.UUID)
		require.ErrorIs(t, err, opscenter.ErrNotFound, "it has expired")
		n, err := w.RemoveSpentTokens(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, n, "the one that was used up an hour ago")
		_, err = w.TokenSeeds().List(t.Context(), used)
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		time.Sleep(time.Hour)
		require.NoError(t, w.Observer().Maintain(t.Context()), "which removes, too")
		_, err = w.Token(t.Context(), expires)
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		for _, id := range []string{kept, again} {
			_, err = w.Token(t.Context(), id)
			require.NoError(t, err)
		}
	})
}
