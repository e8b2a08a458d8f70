package webui_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// follow loads a page, and all pages that it links to.
func follow(t *testing.T, b *pagetest.Browser, from string, check func(path string, page *pagetest.Page)) (seen map[string]bool) {
	t.Helper()
	seen = map[string]bool{}
	for paths := []string{from}; len(paths) > 0; paths = paths[1:] {
		path := paths[0]
		if seen[path] {
			continue
		}
		seen[path] = true
		page := b.Get(path)
		check(path, page)
		for _, link := range strings.Split(page.Text, `href="`)[1:] {
			link, _, _ = strings.Cut(link, `"`)
			link = html.UnescapeString(link)
			if strings.HasPrefix(link, "/") && !strings.HasPrefix(link, "/1.0/") && !strings.HasPrefix(link, "/static/") {
				paths = append(paths, link)
			}
		}
	}
	return seen
}

// TestPages loads all pages that can be reached, as each role. Each answers, with the headers that keep a browser from harm, and shows no form that the role
// may not send.
func TestPages(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Members: 3, Single: 1})
	w.ReadInventory(4)
	_, err := w.Registry.CreateToken(t.Context(), opscenter.TokenSpec{Description: "rack 7", Uses: 1})
	require.NoError(t, err)
	for _, role := range access.Roles {
		b := w.LoggedIn(role)
		seen := follow(t, b, "/", func(path string, page *pagetest.Page) {
			if role != access.RoleAdmin && strings.HasPrefix(path, "/tokens") {
				require.Equal(t, http.StatusForbidden, page.Status, path)
				return
			}
			require.Equal(t, http.StatusOK, page.Status, "%s: %s", path, page.Text)
			require.NotContains(t, page.Text, "ZgotmplZ", path)
			require.NotContains(t, page.Text, "no value", path)
			for _, unsafe := range []string{"<style", " style=", " onclick=", "javascript:"} {
				require.NotContains(t, page.Text, unsafe, path)
			}
			require.Equal(t, 1, strings.Count(page.Text, "<script"), path)
			for name, value := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"} {
				require.Equal(t, value, page.Header.Get(name), path)
			}
			require.Contains(t, page.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'")
			if role == access.RoleViewer {
				require.Equal(t, 1, strings.Count(page.Text, `method="post"`), "%s: only the log-out: %s", path, page.Text)
			}
		})
		for _, path := range []string{"/servers/m1", "/clusters/c1", "/inventory", "/updates", "/audit", "/warnings", "/rollouts"} {
			require.True(t, seen[path], "%s is not linked for %s", path, role)
		}
	}
}

// TestRolesOfForms sends forms as roles that may not: the API refuses them.
func TestRolesOfForms(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	browsers := map[access.Role]*pagetest.Browser{}
	for _, role := range access.Roles {
		browsers[role] = w.LoggedIn(role)
	}
	for path, needed := range map[string]access.Role{"/servers/s1/reboot": access.RoleOperator, "/servers/s1/edit": access.RoleOperator, "/servers/s1/remove": access.RoleAdmin, "/servers/s1/accept-certificate": access.RoleAdmin,
		"/servers/s1/network": access.RoleOperator, "/rollouts/new": access.RoleOperator, "/channels": access.RoleAdmin, "/tokens": access.RoleAdmin, "/access-tokens": access.RoleAdmin, "/updates/refresh": access.RoleOperator} {
		for _, role := range access.Roles {
			if role.Includes(needed) {
				continue
			}
			page := browsers[role].Post(path, url.Values{"confirm": {"1"}, "config": {"{}"}, "uses": {"1"}, "days": {"1"}, "all": {"1"}, "name": {"x"}})
			require.Equal(t, http.StatusUnprocessableEntity, page.Status, "%s as %s", path, role)
			require.Contains(t, page.Text, "The role "+string(needed)+" is wanted", "%s as %s", path, role)
		}
	}
	require.Zero(t, w.Servers["s1"].Reboots())
}

// TestScope: a principal with a scope sees its own servers alone, on pages and in the stream.
func TestScope(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Members: 3, Single: 1})
	b := w.LogIn(w.AccessToken("of c1", access.Grant{Role: access.RoleOperator, Scope: access.Scope{Clusters: []string{"c1"}}}))
	follow(t, b, "/", func(path string, page *pagetest.Page) {
		require.NotContains(t, page.Text, "s1", path)
		require.Less(t, page.Status, 500, path)
	})
	require.Contains(t, b.Get("/").Text, "3 servers")
	require.Equal(t, http.StatusForbidden, b.Get("/servers/s1").Status)
	s := stream(t, b, "/live?tiles=1")
	_, data := s.next()
	require.Contains(t, data, "m1")
	require.NotContains(t, data, "s1")
	deaf := stream(t, b, "/live?topic=server:s1&topic=change:s1&topic=events&topic=rollouts&topic=cluster:none&topic=server:m1&since=x")
	event, data := deaf.next()
	require.Equal(t, []string{"changed", "server:m1"}, []string{event, data}, "of what is outside it is told nothing")
	require.NoError(t, w.Registry.EditServer(t.Context(), "s1", func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
		spec.Properties = map[string]string{"changed": "1"}
		return nil
	}))
	require.NoError(t, w.Registry.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{Force: true}, "m3"))
	_, data = s.next()
	require.JSONEq(t, `{"gone":["m3"]}`, data, "and nothing of s1")
}

// messages are those of a stream.
type messages struct {
	t     *testing.T
	lines *bufio.Scanner
	resp  *http.Response
}

func stream(t *testing.T, b *pagetest.Browser, path string) *messages {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	resp := b.Open(ctx, path)
	t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 8<<20)
	return &messages{t, lines, resp}
}

// next returns the next message; two empty texts: the stream has ended.
func (m *messages) next() (event, data string) {
	m.t.Helper()
	for m.lines.Scan() {
		if text, ok := strings.CutPrefix(m.lines.Text(), "event: "); ok {
			event = text
		}
		if text, ok := strings.CutPrefix(m.lines.Text(), "data: "); ok {
			return event, text
		}
	}
	return "", ""
}

// TestLive: the stream begins with the whole map, and tells of each change once. A page that was read before a change is told of it.
func TestLive(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 2, Interval: time.Hour})
	b := w.LoggedIn(access.RoleViewer)
	page := b.Get("/servers/s1").Text
	_, position, _ := strings.Cut(page, `data-position="`)
	position, _, _ = strings.Cut(position, `"`)
	require.NotEmpty(t, position)

	all := stream(t, b, "/live?tiles=1&topic=server:s1&topic=server:s2&since="+position)
	event, data := all.next()
	require.Equal(t, "tiles", event)
	var first struct {
		Reset bool
		All   [][2]any
	}
	require.NoError(t, json.Unmarshal([]byte(data), &first))
	require.True(t, first.Reset)
	require.Len(t, first.All, 2)

	edit := func(name, text string) {
		require.NoError(t, w.Registry.EditServer(t.Context(), name, func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
			spec.Description = text
			return nil
		}))
	}
	edit("s1", "changed")
	event, data = all.next()
	require.Equal(t, []string{"changed", "server:s1"}, []string{event, data}, "its state is the same, so its tile is not sent")

	late := stream(t, b, "/live?topic=server:s1&topic=server:s2&since="+position)
	event, data = late.next()
	require.Equal(t, []string{"changed", "server:s1"}, []string{event, data}, "it changed after the page was read")
	edit("s2", "changed")
	event, data = late.next()
	require.Equal(t, []string{"changed", "server:s2"}, []string{event, data})

	unknown := stream(t, b, "/live?topic=server:s2&since=another-7")
	_, data = unknown.next()
	require.Equal(t, "server:s2", data, "the position of another run tells nothing")

	require.NoError(t, w.Registry.DeleteServer(t.Context(), "s2", true))
	for event != "tiles" {
		event, data = all.next()
	}
	require.JSONEq(t, `{"gone":["s2"]}`, data)

	w.Stop()
	for event != "" {
		event, _ = all.next()
	}
	require.NoError(t, w.WebUI.Close())
}

// TestStreamsAreBounded: a stream with too many topics, and one over MaxStreams, is refused.
func TestStreamsAreBounded(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{MaxStreams: 4})
	b := w.LoggedIn(access.RoleViewer)
	require.Equal(t, http.StatusBadRequest, b.Get("/live?"+strings.Repeat("topic=a&", 9)).Status)
	require.Equal(t, http.StatusBadRequest, b.Get("/live?topic="+strings.Repeat("a", 301)).Status)
	other := w.LoggedIn(access.RoleOperator)
	for _, b := range []*pagetest.Browser{b, other} {
		for range 2 {
			stream(t, b, "/live?topic=none")
		}
		page := b.Get("/live?topic=none")
		require.Equal(t, http.StatusServiceUnavailable, page.Status, "one principal takes half of all")
		require.Equal(t, "60", page.Header.Get("Retry-After"))
	}
	require.Equal(t, http.StatusServiceUnavailable, w.LoggedIn(access.RoleAdmin).Get("/live?topic=none").Status)
}

// TestStreamEndsWithTheGrant: a stream ends soon after the access token that began it was revoked.
func TestStreamEndsWithTheGrant(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	w.WebUI.SetHeartbeat(10 * time.Millisecond)
	s := stream(t, w.LoggedIn(access.RoleViewer), "/live?tiles=1")
	_, data := s.next()
	require.Contains(t, data, "s1")
	tokens, err := w.AccessTokens.List(t.Context())
	require.NoError(t, err)
	require.NoError(t, w.AccessTokens.Revoke(t.Context(), tokens[0].UUID))
	revoked := time.Now()
	event, _ := s.next()
	require.Empty(t, event)
	require.Less(t, time.Since(revoked), 20*time.Second, "its own time is 30 s")
}

// TestPromotion: servers for which a release becomes due, or no longer, move on the fleet page.
func TestPromotion(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	b := w.LoggedIn(access.RoleViewer)
	due := func() bool { return strings.Contains(b.Get("/").Text, `<b data-count="due">1</b>`) }
	require.Eventually(t, due, 20*time.Second, 10*time.Millisecond)
	for _, u := range w.Updates.Snapshot().Updates() {
		if u.Version == pagetest.NewVersion {
			require.NoError(t, w.Updates.SetChannels(t.Context(), u.UUID, nil, updates.SetOptions{Force: true}))
		}
	}
	require.Eventually(t, func() bool { return !due() }, 20*time.Second, 10*time.Millisecond)
}

// TestForeignForms: a form of another site is refused, before all else.
func TestForeignForms(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	b := w.LoggedIn(access.RoleAdmin)
	for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+"/servers/s1/remove", strings.NewReader("confirm=1"))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set(name, value)
		require.Equal(t, http.StatusForbidden, b.Do(r).Status, name)
	}
	_, err := w.Registry.Server(t.Context(), "s1")
	require.NoError(t, err)
}

// TestFormsOverTheLimit: a form that is too large is refused.
func TestFormsOverTheLimit(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	page := w.LoggedIn(access.RoleAdmin).Post("/servers/s1/edit", url.Values{"description": {strings.Repeat("x", 1<<20)}})
	require.Equal(t, http.StatusBadRequest, page.Status)
	require.Contains(t, page.Text, "too large")
}

// TestAnswers of what is not there, and of filters and forms that are not right.
func TestAnswers(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	b := w.LoggedIn(access.RoleAdmin)
	for path, status := range map[string]int{"/none": 404, "/servers/none": 404, "/rollouts/none": 404, "/inventory?kind=none": 404, "/inventory/none/x": 404, "/tokens/none": 400, "/static/none.js": 404, "/servers?cursor=%00": 400} {
		require.Equal(t, status, b.Get(path).Status, path)
	}
	page := b.Get("/servers?filter=" + url.QueryEscape("name =="))
	require.Equal(t, http.StatusOK, page.Status)
	require.Contains(t, page.Text, `aria-describedby="filter-error"`)
	require.Contains(t, page.Text, `value="name =="`, "what was typed stays")
	require.Contains(t, b.Get("/servers?filter="+url.QueryEscape(`name == "s1"`)).Text, "/servers/s1")
	require.Contains(t, b.Get("/servers?filter="+url.QueryEscape(`name == "other"`)).Text, "No server matches")
	page = b.Get("/servers?column=description")
	require.Contains(t, page.Text, `<th scope="col">Description</th>`, "the address chooses the columns")
	require.NotContains(t, page.Text, `<th scope="col">Channel</th>`)
	page = b.Post("/servers/s1/edit", url.Values{"properties": {"no value"}, "description": {"kept"}})
	require.Contains(t, page.Text, "not of the form name=value")
	require.Contains(t, page.Text, `value="kept"`, "what was filled in stays")
	page = b.Post("/tokens", url.Values{"uses": {"0"}, "days": {"1"}})
	require.Contains(t, page.Text, "no number above 0")
	require.Contains(t, b.Get("/servers/s1?done=/servers/{name}/edit").Text, "The server was changed.")
	require.NotContains(t, b.Get("/servers/s1?done="+url.QueryEscape("Call us now")).Text, "Call us", "a notice is a text of our own")
}

// TestClients that ask for no HTML get the API at /, and the API needs no page.
func TestClients(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+"/", nil)
	require.NoError(t, err)
	r.Header.Set("Accept", "application/json")
	require.Contains(t, w.Browser().Do(r).Text, `"/1.0"`)
	require.Contains(t, w.Browser().Get("/1.0").Text, "untrusted")
	require.Contains(t, w.LoggedIn(access.RoleViewer).Get("/1.0").Text, "viewer", "the session counts for the API")
}

// TestAsksFirst: a form with a consequence is carried out only when the person has seen it. The fields come along.
func TestAsksFirst(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	b := w.LoggedIn(access.RoleAdmin)
	page := b.Post("/servers/s1/reboot", nil)
	require.Equal(t, http.StatusOK, page.Status)
	for _, text := range []string{"Reboot: s1", "Plan", `name="confirm" value="1"`, `action="/servers/s1/reboot"`} {
		require.Contains(t, page.Text, text)
	}
	page = b.Post("/servers/s1/remove", nil)
	require.Contains(t, page.Text, "Remove: s1")
	list, err := w.Rollouts.List(t.Context(), "", 1)
	require.NoError(t, err)
	require.Empty(t, list.Rollouts)
	update := w.Updates.Snapshot().Updates()[0].UUID
	page = b.Post("/updates/"+update+"/channels", url.Values{"channel": {"stable", "other"}})
	require.Contains(t, page.Text, "Channel other will offer it, to 0 servers.")
	require.Contains(t, page.Text, `name="channel" value="other"`)
	page = b.Post("/rollouts/new", url.Values{"all": {"1"}, "clusters": {"c1"}})
	require.Contains(t, page.Text, "choose one")
	page = b.Post("/servers/s1/reboot", url.Values{"confirm": {"1"}})
	require.True(t, strings.HasPrefix(page.Path, "/rollouts/"), page.Path)
	require.Eventually(t, func() bool { return w.Servers["s1"].Reboots() == 1 }, 20*time.Second, 10*time.Millisecond)
}

// TestTogether: many pages and streams at a time, while servers change.
func TestTogether(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Members: 3, Single: 2})
	b := w.LoggedIn(access.RoleOperator)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for k := range 5 {
				for _, path := range []string{"/", "/servers", "/servers/m1", "/rollouts"} {
					if page := b.Get(path); page.Status != http.StatusOK {
						t.Errorf("%s: %d", path, page.Status)
					}
				}
				if page := b.Post("/servers/s1/edit", url.Values{"description": {fmt.Sprint(i, k)}}); page.Path != "/servers/s1?done=%2Fservers%2F%7Bname%7D%2Fedit" {
					t.Errorf("%s: %s", page.Path, page.Text)
				}
			}
		})
	}
	all.Wait()
}
