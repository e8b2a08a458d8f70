// Package pagetest starts control planes with a web page and simulated servers, for the tests of package webui and those in a browser.
package pagetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/webui"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Versions of the releases.
const (
	OldVersion = "202610010000"
	NewVersion = "202610150000"
)

// Options of Start. The zero value is a control plane without servers.
type Options struct {
	// Members is the number of servers in the cluster "c1"; 0: there is none. Their names are m1, m2 and so on.
	Members int
	// Single is the number of servers in no cluster. Their names are s1, s2 and so on.
	Single int
	// Interval is the time between two polls. Default 200 ms.
	Interval time.Duration
	// Simulated changes the options of each server before it starts.
	Simulated func(*incusostest.Options)
	Sessions  webui.SessionOptions
	// Store is that of the control plane. Default: one in memory.
	Store storage.Store
	// MaxStreams bounds the streams of open pages. Default that of package httpapi.
	MaxStreams int
}

// World is a control plane with simulated servers, and a page.
type World struct {
	*controlplane.ControlPlane
	T       testing.TB
	URL     string
	Servers map[string]*incusostest.Server
	// Stop ends the control plane, and waits for its end.
	Stop func()
	// Log is the log of the control plane.
	Log *controltest.Log

	publisher   *incusostest.Publisher
	certificate tls.Certificate
}

// Start starts a world, which ends with the test. NewVersion is published, and offered in no channel but stable.
func Start(t testing.TB, options Options) *World {
	t.Helper()
	w := &World{T: t, Servers: map[string]*incusostest.Server{}, Log: &controltest.Log{}}
	var err error
	w.certificate, err = selfsigned.New("control plane", "127.0.0.1", "localhost")
	require.NoError(t, err)
	w.publisher, err = incusostest.NewPublisher()
	require.NoError(t, err)
	require.NoError(t, w.publisher.Start())
	t.Cleanup(w.publisher.Close)
	listener, address := controltest.Listen(t)
	w.URL = address
	if options.Store == nil {
		options.Store = memstore.New()
	}
	if options.Interval == 0 {
		options.Interval = 200 * time.Millisecond
	}
	w.ControlPlane, err = controlplane.New(options.Store, w.certificate, controlplane.Options{
		URL: w.URL, WebUI: true, Sessions: options.Sessions, UpdatesDir: t.TempDir(),
		Logger:   slog.New(slog.NewTextHandler(w.Log, nil)),
		Updates:  updates.Options{Settings: &updates.Settings{Source: w.publisher.URL()}, Trust: updates.Trust{Root: w.publisher.Root()}},
		Registry: opscenter.Options{RebootTimeout: 10 * time.Second},
		Rollouts: rollout.Options{PollInterval: 50 * time.Millisecond},
		Systems:  system.Options{MinTimeout: time.Second},
		Poller:   poller.Options{Interval: options.Interval},
		HTTP:     httpapi.Options{FailuresPerMinute: -1, MaxStreams: options.MaxStreams},
	})
	require.NoError(t, err)
	w.Stop = controltest.Background(t, func(ctx context.Context) error {
		if err := w.Serve(ctx, listener); err != nil {
			return err
		}
		return ctx.Err()
	})
	w.publish(OldVersion)
	var members []*incusostest.Server
	for i := range options.Members {
		members = append(members, w.boot(options, "m"+string(rune('1'+i))))
	}
	if len(members) > 0 {
		require.NoError(t, incusostest.Cluster(members...))
	}
	for i := range options.Single {
		w.boot(options, "s"+string(rune('1'+i)))
	}
	w.register(members)
	w.publish(NewVersion)
	return w
}

func (w *World) publish(version string) {
	w.T.Helper()
	require.NoError(w.T, w.publisher.Publish(incusostest.Release{Version: version, Applications: []string{"incus"}, ISO: true}))
	require.Eventually(w.T, func() bool { return w.Updates.Refresh(w.T.Context(), updates.RefreshOptions{}) == nil }, 20*time.Second, 10*time.Millisecond)
}

func (w *World) boot(options Options, name string) *incusostest.Server {
	w.T.Helper()
	o := incusostest.Options{Name: name, Version: OldVersion, Fresh: true, Standalone: strings.HasPrefix(name, "s"),
		UpdateDelay: 100 * time.Millisecond, RebootDelay: 100 * time.Millisecond, EvacuateDelay: 100 * time.Millisecond}
	if options.Simulated != nil {
		options.Simulated(&o)
	}
	s, err := incusostest.New(o)
	require.NoError(w.T, err)
	w.T.Cleanup(s.Close)
	s.AddInstance("default", "web-"+name, true)
	w.Servers[name] = s
	return s
}

// register has all servers register, and polls them. It records the cluster of the members.
func (w *World) register(members []*incusostest.Server) {
	w.T.Helper()
	ctx := w.T.Context()
	for _, s := range w.Servers {
		w.Register(s)
	}
	if len(members) > 0 {
		var names []string
		for _, s := range members {
			names = append(names, s.Name())
		}
		_, err := w.Registry.CreateCluster(ctx, "c1", opscenter.ClusterSpec{}, names...)
		require.NoError(w.T, err)
		require.NoError(w.T, w.Registry.Write(ctx, func(tx *opscenter.Tx) error {
			return tx.SetClusterCertificate("c1", members[0].ClusterCertificate().Leaf)
		}))
	}
	for name := range w.Servers {
		_, err := w.Poller.Poll(ctx, name)
		require.NoError(w.T, err)
	}
}

// Register has a server install its application and register.
func (w *World) Register(s *incusostest.Server) {
	w.T.Helper()
	token, err := w.Registry.CreateToken(w.T.Context(), opscenter.TokenSpec{Description: "for " + s.Name(), Uses: 1})
	require.NoError(w.T, err)
	require.NoError(w.T, s.Install(w.T.Context(), incusostest.Provider{ServerURL: w.URL, Token: token.UUID, Certificate: w.certificate.Leaf}))
}

// AccessToken returns the secret of a new access token.
func (w *World) AccessToken(name string, grant access.Grant) string {
	w.T.Helper()
	_, secret, err := w.AccessTokens.Create(w.T.Context(), accesstoken.Spec{Name: name, Grant: grant})
	require.NoError(w.T, err)
	return secret
}

// Browser is a client with cookies, which follows redirects as a browser does.
type Browser struct {
	t    testing.TB
	http *http.Client
	url  string
}

// Browser returns a browser without a session.
func (w *World) Browser() *Browser {
	w.T.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(w.T, err)
	b := &Browser{t: w.T, http: w.HTTP(), url: w.URL}
	b.http.Jar = jar
	return b
}

// HTTP returns a client that trusts the control plane alone.
func (w *World) HTTP() *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(w.certificate.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	w.T.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// LoggedIn returns a browser with a session of a new access token.
func (w *World) LoggedIn(role access.Role) *Browser {
	w.T.Helper()
	return w.LogIn(w.AccessToken("person "+string(role), access.Grant{Role: role}))
}

// LogIn returns a browser with a session of an access token.
func (w *World) LogIn(secret string) *Browser {
	w.T.Helper()
	b := w.Browser()
	page := b.Post("/login", url.Values{"token": {secret}})
	require.Equal(w.T, http.StatusOK, page.Status, page.Text)
	return b
}

// Page is an answer.
type Page struct {
	Status int
	Path   string // after redirects
	Header http.Header
	Text   string
}

// Get loads a page.
func (b *Browser) Get(path string) *Page {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.url+path, nil)
	require.NoError(b.t, err)
	return b.Do(r)
}

// Post sends a form.
func (b *Browser) Post(path string, form url.Values) *Page {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.url+path, strings.NewReader(form.Encode()))
	require.NoError(b.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.Do(r)
}

// Do sends a request for HTML.
func (b *Browser) Do(r *http.Request) *Page {
	b.t.Helper()
	if r.Header.Get("Accept") == "" {
		r.Header.Set("Accept", "text/html")
	}
	resp, err := b.http.Do(r)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	return &Page{Status: resp.StatusCode, Path: resp.Request.URL.RequestURI(), Header: resp.Header, Text: string(text)}
}

// ReadInventory waits until the inventory has that many instances. Each server has one.
func (w *World) ReadInventory(instances int) {
	w.T.Helper()
	require.Eventually(w.T, func() bool {
		counts, err := w.Inventory.Count(w.T.Context(), inventory.Query{})
		return err == nil && counts.ByKind[inventory.KindInstance] >= instances
	}, 30*time.Second, 20*time.Millisecond)
}

// Open opens a stream. The caller closes its body.
func (b *Browser) Open(ctx context.Context, path string) *http.Response {
	b.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+path, nil)
	require.NoError(b.t, err)
	r.Header.Set("Accept", "text/event-stream")
	resp, err := b.http.Do(r)
	require.NoError(b.t, err)
	require.Equal(b.t, http.StatusOK, resp.StatusCode)
	return resp
}
