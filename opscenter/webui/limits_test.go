package webui_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/webui"
)

// TestIndented: JSON is shown as package json indents it. Deep and long JSON of a hostile server costs no more than it is long.
func TestIndented(t *testing.T) {
	for _, raw := range []string{`{}`, `[]`, `null`, `"a \" b { , : \\"`, `{"a":[1,2,{"b":{}}],"c":[],"d":"x:y,{z}","e":{"f":null,"g":true,"h":-1.5e3}}`, string(incusostest.Hardware(1))} {
		var want, compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, []byte(raw)))
		require.NoError(t, json.Indent(&want, compact.Bytes(), "", "  "))
		text := want.String()
		got := webui.Indented(compact.Bytes())
		if len(text) > webui.MaxShown {
			require.Equal(t, text[:webui.MaxShown], got[:webui.MaxShown])
		} else {
			require.Equal(t, text, got)
		}
	}
	deep := strings.Repeat(`{"a":[`, 50_000) + strings.Repeat("1,", 50_000) + "1" + strings.Repeat("]}", 50_000)
	require.Less(t, len(webui.Indented([]byte(deep))), webui.MaxShown+4096)
	require.Less(t, len(webui.Indented([]byte(strings.Repeat("[1,", 400<<10)))), webui.MaxShown+4096)
	for _, garbage := range []string{"", "}", "},", "],1", "]]]]", `"`, "{{{", "\xff\xfe", `{"a`} {
		webui.Indented([]byte(garbage))
	}
}

// deadlines is a writer that notes its deadlines.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

// TestDeadlines: a client has a limited time to send a form, and to take a page.
func TestDeadlines(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{})
	d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodPost, "/login", strings.NewReader("token=x"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w.WebUI.ServeHTTP(d, r)
	require.Equal(t, http.StatusForbidden, d.Code)
	require.WithinDuration(t, time.Now().Add(15*time.Second), d.read, 5*time.Second)
	require.WithinDuration(t, time.Now().Add(30*time.Second), d.write, 5*time.Second)
}

// TestFormsOfStrangers: the form of a client that is not admitted is read only if it is small.
func TestFormsOfStrangers(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{})
	secret := w.AccessToken("person", access.Grant{Role: access.RoleViewer})
	page := w.Browser().Post("/login", url.Values{"token": {secret}, "pad": {strings.Repeat("x", 16<<10)}})
	require.Equal(t, http.StatusForbidden, page.Status)
	page = w.LogIn(secret).Post("/servers/none/edit", url.Values{"pad": {strings.Repeat("x", 64<<10)}})
	require.Equal(t, http.StatusUnprocessableEntity, page.Status, "one that is admitted may send more")
	require.Equal(t, http.StatusUnauthorized, w.Browser().Post("/servers/none/edit", url.Values{"pad": {strings.Repeat("x", 64<<10)}}).Status)
}

// TestManyParts: a server with very many parts makes no large page.
func TestManyParts(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 1, Simulated: func(o *incusostest.Options) { o.VirtualFunctions = 64 }})
	page := w.LoggedIn(access.RoleViewer).Get("/servers/s1")
	require.Equal(t, http.StatusOK, page.Status)
	require.Less(t, len(page.Text), 600<<10)
}

// TestEachPath: each page and each form of the tables answers, and needs a session.
func TestEachPath(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{})
	admin, stranger := w.LoggedIn(access.RoleAdmin), w.Browser()
	shown, sent := webui.Paths()
	fill := strings.NewReplacer("{$}", "", "{name}", "none", "{uuid}", "0192d0a0-0000-7000-8000-000000000000", "{kind}", "instances")
	for _, path := range shown {
		status := admin.Get(fill.Replace(path)).Status
		require.True(t, status == http.StatusOK || strings.Contains(path, "{") && (status == http.StatusNotFound || status == http.StatusBadRequest), "%s: %d", path, status)
		require.Contains(t, stranger.Get(fill.Replace(path)).Path, "/login?to=", path)
	}
	for _, path := range sent {
		page := admin.Post(fill.Replace(path), url.Values{"confirm": {"1"}})
		if strings.Contains(path, "{") { // there is no such object
			require.Equal(t, http.StatusUnprocessableEntity, page.Status, "%s: %s", path, page.Text)
			require.Contains(t, page.Text, `class="problem"`, path)
		}
		require.Less(t, page.Status, 500, path)
		require.Equal(t, http.StatusUnauthorized, stranger.Post(fill.Replace(path), url.Values{"confirm": {"1"}}).Status, path)
	}
}
