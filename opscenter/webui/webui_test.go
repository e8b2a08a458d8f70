package webui_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPages: an administrator, an operator and a viewer load each page.
func TestPages(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Members: 3, Single: 1})
	admin := w.LoggedIn(access.RoleAdmin)
	seen := map[string]bool{}
	paths := []string{"/"}
	for len(paths) > 0 {
		path := paths[0]
		paths = paths[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		if len(seen) > 300 {
			break
		}
		page := admin.Get(path)
		require.Equal(t, http.StatusOK, page.Status, "%s: %s", path, page.Text)
		require.NotContains(t, page.Text, "ZgotmplZ", path)
		require.NotContains(t, page.Text, "&lt;no value", path)
		for _, link := range strings.Split(page.Text, `href="`)[1:] {
			link, _, _ = strings.Cut(link, `"`)
			link = strings.ReplaceAll(link, "&amp;", "&")
			if strings.HasPrefix(link, "/") && !strings.HasPrefix(link, "/1.0/") && !strings.HasPrefix(link, "/static/") {
				paths = append(paths, link)
			}
		}
	}
	t.Logf("%d pages", len(seen))
	for _, path := range []string{"/servers", "/servers/m1", "/clusters/c1", "/servers/s1/network", "/inventory", "/updates", "/tokens", "/audit", "/warnings", "/rollouts", "/rollouts/new?all=1"} {
		if !seen[path] {
			require.Equal(t, http.StatusOK, admin.Get(path).Status, path)
		}
	}
	time.Sleep(0)
	_ = url.Values{}
}
