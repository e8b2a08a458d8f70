package webui_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/webui"
)

func person(context.Context) (access.Principal, error) {
	return access.Principal{Name: "person", Grant: access.Grant{Role: access.RoleViewer}}, nil
}

// begin begins a session, and returns a request of it.
func begin(t *testing.T, s *webui.Sessions, check webui.Check) *http.Request {
	t.Helper()
	w := httptest.NewRecorder()
	require.NoError(t, s.Start(w, httptest.NewRequest(http.MethodPost, "/login", nil), check))
	cookies := w.Result().Cookies()
	require.Len(t, cookies, 1)
	c := cookies[0]
	require.Equal(t, "__Host-opscenter", c.Name)
	require.True(t, c.Secure && c.HttpOnly && c.Path == "/" && c.Domain == "" && c.SameSite == http.SameSiteLaxMode, "%+v", c)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(c)
	return r
}

// TestSessionTimeouts: a session ends when it is idle, and after its lifetime. What a page loads by itself does not keep it.
func TestSessionTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := webui.NewSessions(webui.SessionOptions{})
		require.NoError(t, err)
		ok := func(r *http.Request) bool { _, err := s.Authorize(r); return err == nil }

		used := begin(t, s, person)
		idle := begin(t, s, person)
		byItself := begin(t, s, person)
		byItself.Header.Set("Sec-Fetch-Mode", "cors")
		for range 12 * 60 / 20 {
			time.Sleep(20*time.Minute - time.Second)
			require.True(t, ok(used))
			ok(byItself)
		}
		require.False(t, ok(idle))
		require.False(t, ok(byItself), "a page that loads by itself keeps no session")
		time.Sleep(time.Minute)
		require.False(t, ok(used), "12 hours are over")
	})
}

// TestSessionEnds with its credentials, with the log-out, and with a new one.
func TestSessionEnds(t *testing.T) {
	s, err := webui.NewSessions(webui.SessionOptions{MaxSessions: 2})
	require.NoError(t, err)
	allowed := errors.New("the store is closed")
	r := begin(t, s, func(ctx context.Context) (access.Principal, error) {
		if allowed != nil && errors.Is(allowed, access.ErrForbidden) {
			return access.Principal{}, allowed
		}
		return person(ctx)
	})
	_, err = s.Authorize(r)
	require.NoError(t, err)
	allowed = access.ErrForbidden
	_, err = s.Authorize(r)
	require.ErrorIs(t, err, access.ErrForbidden)
	allowed = nil
	_, err = s.Authorize(r)
	require.ErrorIs(t, err, access.ErrUnauthenticated, "it does not come back")

	r = begin(t, s, person)
	w := httptest.NewRecorder()
	s.End(w, r)
	require.Equal(t, -1, w.Result().Cookies()[0].MaxAge)
	_, err = s.Authorize(r)
	require.ErrorIs(t, err, access.ErrUnauthenticated)

	begin(t, s, person)
	old := begin(t, s, person)
	require.ErrorIs(t, s.Start(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil), person), webui.ErrTooManySessions)
	require.NoError(t, s.Start(httptest.NewRecorder(), old, person), "it takes the place of the one before")
	_, err = s.Authorize(old)
	require.ErrorIs(t, err, access.ErrUnauthenticated)
	r = httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(&http.Cookie{Name: "__Host-opscenter", Value: "guessed"})
	_, err = s.Authorize(r)
	require.ErrorIs(t, err, access.ErrUnauthenticated)
	_, err = webui.NewSessions(webui.SessionOptions{IdleTimeout: -1})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
}

// TestLogIn with access tokens: the way in, and each way that is none.
func TestLogIn(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{})
	b := w.Browser()
	page := b.Get("/servers?status=ready")
	require.Equal(t, "/login?to=%2Fservers%3Fstatus%3Dready", page.Path)
	for _, secret := range []string{"", "oca_wrong", w.URL} {
		page = b.Post("/login", url.Values{"token": {secret}})
		require.Equal(t, http.StatusForbidden, page.Status)
		require.Contains(t, page.Text, "not valid")
	}
	secret := w.AccessToken("person", access.Grant{Role: access.RoleViewer})
	page = b.Post("/login", url.Values{"token": {" " + secret + "\n"}, "to": {"/servers?status=ready"}})
	require.Equal(t, "/servers?status=ready", page.Path)
	require.NotContains(t, page.Text, secret)
	for _, to := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "servers", "/login", "/\t/evil.example", "/logout"} {
		require.Equal(t, "/", w.Browser().Post("/login", url.Values{"token": {secret}, "to": {to}}).Path, to)
	}
	require.NotContains(t, w.Log.String(), secret)

	tokens, err := w.AccessTokens.List(t.Context())
	require.NoError(t, err)
	require.NoError(t, w.AccessTokens.Revoke(t.Context(), tokens[0].UUID))
	require.Contains(t, b.Get("/servers").Path, "/login")
	b = w.LoggedIn(access.RoleViewer)
	require.Equal(t, "/login", b.Post("/logout", nil).Path)
	require.Contains(t, b.Get("/").Path, "/login")
	require.Equal(t, http.StatusUnauthorized, b.Get("/live").Status)
	require.Equal(t, http.StatusUnauthorized, b.Post("/channels", url.Values{"name": {"x"}}).Status)
}

// TestSessionsOfOnePrincipal: the twenty-first session of a principal ends its first, and none of others.
func TestSessionsOfOnePrincipal(t *testing.T) {
	s, err := webui.NewSessions(webui.SessionOptions{MaxSessions: 30})
	require.NoError(t, err)
	other := begin(t, s, func(context.Context) (access.Principal, error) {
		return access.Principal{Name: "other", Grant: access.Grant{Role: access.RoleViewer}}, nil
	})
	var list []*http.Request
	for range 21 {
		list = append(list, begin(t, s, person))
	}
	for i, r := range append(list, other) {
		_, err := s.Authorize(r)
		require.Equal(t, i != 0, err == nil, i)
	}
}
