package updates_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// plane is a control plane with a feed and a simulated publisher.
type plane struct {
	*opscenter.Registry
	store     storage.Store
	publisher *incusostest.Publisher
	source    string
	dir       string
	files     updates.Files
	options   updates.Options
	feed      *updates.Manager
}

func newPlane(t testing.TB, change ...func(*plane)) *plane {
	t.Helper()
	p := &plane{store: memstore.New(), dir: t.TempDir()}
	t.Cleanup(func() { p.store.Close() })
	var err error
	p.publisher, err = incusostest.NewPublisher()
	require.NoError(t, err)
	server := httptest.NewServer(p.publisher)
	t.Cleanup(server.Close)
	p.source = server.URL
	p.Registry, err = opscenter.NewRegistry(p.store, opscenter.Options{})
	require.NoError(t, err)
	p.files, err = updates.NewDir(p.dir)
	require.NoError(t, err)
	p.options = updates.Options{Settings: &updates.Settings{Source: p.source}, Trust: updates.Trust{Root: p.publisher.Root()}, RetryDelay: time.Millisecond,
		HTTP: updates.HTTPOptions{StallTimeout: 200 * time.Millisecond}}
	for _, do := range change {
		do(p)
	}
	p.restart(t)
	return p
}

// restart creates the feed again, as a new process would.
func (p *plane) restart(t testing.TB) {
	t.Helper()
	var err error
	p.feed, err = updates.New(t.Context(), p.Registry, p.files, p.options)
	require.NoError(t, err)
}

func (p *plane) publish(t testing.TB, releases ...incusostest.Release) {
	t.Helper()
	for _, r := range releases {
		require.NoError(t, p.publisher.Publish(r))
	}
}

func (p *plane) refresh(t testing.TB) {
	t.Helper()
	require.NoError(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}))
}

// versions returns the versions of the updates with the status, newest first.
func (p *plane) versions(status updates.Status) (out []string) {
	for _, u := range p.feed.Snapshot().Updates() {
		if u.Status == status {
			out = append(out, u.Version)
		}
	}
	return out
}

func (p *plane) update(t testing.TB, version string) *updates.Update {
	t.Helper()
	for _, u := range p.feed.Snapshot().Updates() {
		if u.Version == version {
			return u
		}
	}
	t.Fatalf("there is no update %s", version)
	return nil
}

// stored returns the sizes of the stored files, by sum.
func (p *plane) stored(t testing.TB) (out map[string]int64) {
	t.Helper()
	out = map[string]int64{}
	for info, err := range p.files.List(t.Context()) {
		require.NoError(t, err)
		out[info.SHA256] = info.Size
	}
	return out
}

func (p *plane) warnings(t testing.TB) map[warning.Kind]string {
	t.Helper()
	page, err := p.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
	require.NoError(t, err)
	out := map[warning.Kind]string{}
	for _, w := range page.Warnings {
		out[w.Kind] = w.Message
	}
	return out
}

// server registers a server and records a poll of it, with the version for all its components.
func (p *plane) server(t testing.TB, name, channel, version, architecture string, applications ...string) {
	t.Helper()
	token, err := p.CreateToken(t.Context(), opscenter.TokenSpec{Channel: channel})
	require.NoError(t, err)
	identity, err := selfsigned.New(name)
	require.NoError(t, err)
	_, err = p.Register(t.Context(), opscenter.Registration{Token: token.UUID, Certificate: identity.Leaf, Name: name, ConnectionURL: "https://192.0.2.1:8443"})
	require.NoError(t, err)
	p.polled(t, name, version, architecture, applications...)
}

// polled records a poll of a server.
func (p *plane) polled(t testing.TB, name, version, architecture string, applications ...string) {
	t.Helper()
	info, err := p.Server(t.Context(), name)
	require.NoError(t, err)
	v := lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: version, VersionNext: version}}
	for i, a := range applications {
		v.Applications = append(v.Applications, lifecycle.ApplicationVersion{Name: a, Version: version, Primary: i == 0})
	}
	kind, maintenance, member := lifecycle.TypeIncus, lifecycle.NotInMaintenance, ""
	require.NoError(t, p.Observer().Record(context.Background(), lifecycle.Observation{Server: name, ID: info.ID, At: time.Now().UTC(), Ready: true, Type: &kind, Versions: &v,
		Maintenance: &maintenance, MemberName: &member, Architecture: architecture, Presented: info.Fingerprint}))
}

// needs returns the newer versions that a server needs, by component.
func (p *plane) needs(t testing.TB, name string) map[string]string {
	t.Helper()
	info, err := p.Server(t.Context(), name)
	require.NoError(t, err)
	return info.Outdated()
}

// clientTransport returns a transport that trusts only the control plane's certificate.
func clientTransport(certificate *x509.Certificate) *http.Transport {
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}}, MaxIdleConnsPerHost: 64}
}
