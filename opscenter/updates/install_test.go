package updates_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
)

// endpoint serves the plane over TLS, as servers reach it. The result creates a token and returns a seed's provider for it.
func (p *plane) endpoint(t *testing.T, wrap func(http.Handler) http.Handler) func(opscenter.TokenSpec) incusostest.Provider {
	t.Helper()
	certificate, err := selfsigned.New("control plane", "127.0.0.1")
	require.NoError(t, err)
	handler, err := httpapi.New(p.Registry, httpapi.Options{ClientCertificate: certificate.Leaf, FailuresPerMinute: -1, Updates: p.feed})
	require.NoError(t, err)
	listener, url := controltest.Listen(t)
	controltest.Serve(t, listener, wrap(handler), certificate, nil)
	client := controltest.Client(t, incusos.Options{Certificate: &certificate})
	polls, err := poller.New(p.Registry, client, poller.Options{FastInterval: 20 * time.Millisecond, RetryInterval: 50 * time.Millisecond})
	require.NoError(t, err)
	controltest.Background(t, polls.Run)
	return func(spec opscenter.TokenSpec) incusostest.Provider {
		token, err := p.CreateToken(t.Context(), spec)
		require.NoError(t, err)
		return incusostest.Provider{ServerURL: url, Token: token.UUID, Certificate: certificate.Leaf}
	}
}

// asItIs wraps nothing.
func asItIs(h http.Handler) http.Handler { return h }

// until waits until polls have recorded the wanted state of a server.
func (p *plane) until(t *testing.T, name string, wanted func(*opscenter.ServerInfo) bool) *opscenter.ServerInfo {
	t.Helper()
	var info *opscenter.ServerInfo
	require.Eventually(t, func() bool {
		found, err := p.Server(t.Context(), name)
		info = found
		return err == nil && wanted(info)
	}, 20*time.Second, 10*time.Millisecond)
	return info
}

// TestInstall: a freshly installed server without a certificate fetches its application from the feed. It then registers,
// and gets later updates from the feed.
func TestInstall(t *testing.T) {
	for _, application := range []string{"incus", "incus-lts-7.0", "migration-manager"} {
		t.Run(application, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t)
			p.publish(t, incusostest.Release{Version: "202610010000", Architectures: []string{"x86_64", "aarch64"}})
			s := p.feed.Settings()
			s.FileFilter = updates.NoFilter
			require.NoError(t, p.feed.SetSettings(t.Context(), s, nil))
			p.refresh(t)
			provider := p.endpoint(t, asItIs)(opscenter.TokenSpec{})
			for _, architecture := range []string{"x86_64", "aarch64"} {
				if architecture == "aarch64" {
					provider = p.endpoint(t, asItIs)(opscenter.TokenSpec{})
				}
				server := controltest.Server(t, incusostest.Options{Name: "new-" + architecture[:3], Application: application, Fresh: true, Standalone: true, Version: "202609010000", Architecture: architecture})
				require.NoError(t, server.Install(t.Context(), provider))
				running, staged := server.Version()
				require.Equal(t, "202610010000", running, "the first boot also updates the operating system")
				require.Empty(t, staged)
				info := p.until(t, server.Name(), func(i *opscenter.ServerInfo) bool {
					return i.State.Status == lifecycle.StatusReady && i.State.Architecture != ""
				})
				require.Equal(t, architecture, info.State.Architecture)
				require.Equal(t, lifecycle.TypeOfApplication(application), info.State.Type)
				require.Empty(t, info.Outdated())
			}
			p.publish(t, incusostest.Release{Version: "202610020000", Architectures: []string{"x86_64", "aarch64"}})
			p.refresh(t)
			info, err := p.Server(t.Context(), "new-x86")
			require.NoError(t, err)
			require.Equal(t, map[string]string{"os": "202610020000", application: "202610020000"}, info.Outdated(), "both components need an update at once")
		})
	}
}

// TestFreshServerHangs: a fresh server hangs if the feed lacks its application, and its console says so. A response with a
// content encoding breaks its download.
func TestFreshServerHangs(t *testing.T) {
	p := newPlane(t)
	p.publish(t, incusostest.Release{Version: "202610010000", Applications: []string{"migration-manager"}})
	p.refresh(t)
	provider := p.endpoint(t, asItIs)(opscenter.TokenSpec{})
	fresh := func() *incusostest.Server {
		server := controltest.Server(t, incusostest.Options{Fresh: true})
		return server
	}
	server := fresh()
	require.ErrorIs(t, server.Install(t.Context(), provider), incusostest.ErrNoApplication)
	require.Contains(t, strings.Join(server.Console(), "\n"), `application "incus"`)
	page, err := p.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{})
	require.NoError(t, err)
	require.Empty(t, page.Servers, "the server does not register")
	p.publish(t, incusostest.Release{Version: "202610020000"})
	p.refresh(t)
	server = fresh()
	require.NoError(t, server.Install(t.Context(), provider))

	encoding := p.endpoint(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/files/") {
				w.Header().Set("Content-Encoding", "gzip") // like a middleware that compresses every response
			}
			h.ServeHTTP(w, r)
		})
	})
	server = fresh()
	require.ErrorContains(t, server.Install(t.Context(), encoding(opscenter.TokenSpec{})), "gzip")
	require.Contains(t, strings.Join(server.Console(), "\n"), "Failed to check for updates")
}

// TestSecureBootKeys: each Secure Boot key takes one reboot before anything else is installed.
func TestSecureBootKeys(t *testing.T) {
	p := newPlane(t)
	p.publish(t, incusostest.Release{Version: "202610010000", SecureBootKeys: []string{"dbx_3", "KEK_1", "db_2"}})
	p.refresh(t)
	channel, err := p.Channels().Get(t.Context(), "stable")
	require.NoError(t, err)
	require.Equal(t, "202610010000", channel.Offers("aarch64")[updates.ComponentSecureBoot], "the keys are for all architectures")
	server, err := incusostest.New(incusostest.Options{Fresh: true, Standalone: true})
	require.NoError(t, err)
	t.Cleanup(server.Close)
	require.NoError(t, server.Install(t.Context(), p.endpoint(t, asItIs)(opscenter.TokenSpec{})))
	require.Equal(t, 3, server.Reboots())
}

// TestOneReleaseForAllParts publishes, promotes and withdraws updates while a server runs. The server always ends with one
// release for all components, and that release was in its channel.
func TestOneReleaseForAllParts(t *testing.T) {
	p := newPlane(t)
	p.publish(t, release(1))
	p.refresh(t)
	provider := p.endpoint(t, asItIs)(opscenter.TokenSpec{})
	server := controltest.Server(t, incusostest.Options{Fresh: true, Standalone: true, Version: "202609010000"})
	require.NoError(t, server.Install(t.Context(), provider))
	require.NoError(t, p.Channels().Create(t.Context(), "testing", ""))
	last := "202610010000"
	for n := 2; n < 8; n++ {
		p.publish(t, release(n))
		p.refresh(t)
		u := p.update(t, release(n).Version)
		channels := [][]string{{"stable"}, {"testing"}, {}, {"stable", "testing"}}[n%4]
		require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, channels, updates.SetOptions{}))
		server.Check()
		running, staged := server.Version()
		apps := server.ApplicationVersions()
		offered := updates.Offered(p.feed.Snapshot().Updates(), "stable")
		if strings.Compare(offered.Version, last) > 0 {
			last = offered.Version
		}
		require.Equal(t, last, apps["incus"], n)
		if staged == "" {
			staged = running
		}
		require.Equal(t, last, staged, "all components are of one release")
		server.Restart()
	}
}
