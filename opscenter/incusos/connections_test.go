package incusos_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Only the first of several connections to a server needs a full handshake.
func TestSessionsAreResumed(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity})
	where := target(server)
	for range 5 {
		o := probe(t, client, where)
		require.Nil(t, o.Failure)
		require.Equal(t, where.Fingerprint, o.Presented, "also for resumed sessions")
		server.Cut()
		eventually(t, func() bool { return client.Stats().Open == 0 })
	}
	require.Equal(t, incusos.Stats{Dials: 5, FullHandshakes: 1, ResumedHandshakes: 4, Sessions: 1}, client.Stats())

	// The client notices another certificate, although it has a session.
	require.NoError(t, server.SwapCertificate())
	o := probe(t, client, where)
	require.Equal(t, lifecycle.FailureCertificate, o.Failure.Kind)
	require.Equal(t, opscenter.Fingerprint(server.Certificate()), o.Presented, "the observation has the other fingerprint")
}

// Idle connections and sessions are bounded for the whole fleet, and connections for each server.
func TestConnectionsAreBounded(t *testing.T) {
	const n = 12
	identity, err := selfsigned.New("control plane")
	require.NoError(t, err)
	var servers []*incusostest.Server
	for i := range n {
		server, err := incusostest.New(incusostest.Options{Name: fmt.Sprint("bounded", i)})
		require.NoError(t, err)
		t.Cleanup(server.Close)
		server.Trust(identity.Leaf)
		servers = append(servers, server)
	}
	client := newClient(t, incusos.Options{Certificate: &identity, MaxIdleConns: 3, MaxSessions: 5})
	for range 2 {
		for _, server := range servers {
			require.Nil(t, probe(t, client, target(server)).Failure)
		}
		eventually(t, func() bool { return client.Stats().Open == 3 })
		require.Equal(t, 5, client.Stats().Sessions)
	}
	// Many concurrent probes of one server share its connections.
	one := newClient(t, incusos.Options{Certificate: &identity, MaxConnsPerServer: 2})
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if o := one.Probe(context.Background(), target(servers[0])); o.Failure != nil {
				t.Error(o.Failure)
			}
		})
	}
	wait.Wait()
	require.LessOrEqual(t, one.Stats().Dials, int64(20))
	require.LessOrEqual(t, one.Stats().Open, int64(2))
}

// A member of a cluster may present its own certificate, or the one that was accepted for it, and no other.
func TestAcceptedCertificates(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity})
	cluster, err := selfsigned.New("cluster")
	require.NoError(t, err)
	where := target(server)
	require.Nil(t, probe(t, client, where).Failure)
	require.NoError(t, server.Present(&cluster))
	o := probe(t, client, where)
	require.Equal(t, lifecycle.FailureCertificate, o.Failure.Kind)
	require.Equal(t, opscenter.Fingerprint(cluster.Leaf), o.Presented)
	where.ServedFingerprint = o.Presented
	o = probe(t, client, where)
	require.Nil(t, o.Failure)
	require.Contains(t, o.Trust, "accepted")
	require.NoError(t, server.Present(nil))
	o = probe(t, client, where)
	require.Nil(t, o.Failure, "its own certificate is still valid")
	require.Empty(t, o.Trust)
	// The certificate is the identity. Its expiry does not matter.
	expired, err := selfsigned.Expired("expired")
	require.NoError(t, err)
	require.NoError(t, server.Present(&expired))
	require.Equal(t, lifecycle.FailureCertificate, probe(t, client, where).Failure.Kind)
	where.ServedFingerprint = opscenter.Fingerprint(expired.Leaf)
	require.Nil(t, probe(t, client, where).Failure)
}

// A publicly trusted certificate is accepted for the host of the public connection URL.
func TestPublicCertificates(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	public, err := selfsigned.New("public", "incus.example.org")
	require.NoError(t, err)
	expired, err := selfsigned.Expired("public", "incus.example.org")
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(public.Leaf)
	roots.AddCert(expired.Leaf)
	client := newClient(t, incusos.Options{Certificate: identity, Roots: roots})
	where := target(server)
	require.NoError(t, server.Present(&public))
	require.Equal(t, lifecycle.FailureCertificate, probe(t, client, where).Failure.Kind, "without a public connection URL")
	where.PublicConnectionURL = "https://other.example.org:8443"
	require.Equal(t, lifecycle.FailureCertificate, probe(t, client, where).Failure.Kind, "for another name")
	where.PublicConnectionURL = "https://incus.example.org"
	for range 2 { // the second time resumed
		eventually(t, func() bool { return client.Stats().Open == 0 })
		o := probe(t, client, where)
		require.Nil(t, o.Failure)
		require.Contains(t, o.Trust, "publicly trusted for incus.example.org")
		server.Cut()
	}
	require.EqualValues(t, 1, client.Stats().ResumedHandshakes)
	require.Equal(t, lifecycle.FailureCertificate, probe(t, newClient(t, incusos.Options{Certificate: identity}), where).Failure.Kind, "the system's authorities do not trust it")
	require.NoError(t, server.Present(&expired))
	require.Equal(t, lifecycle.FailureCertificate, probe(t, client, where).Failure.Kind, "expired")
}

// A probe sends as few requests as the API allows.
func TestRequestsOfProbe(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity})
	light := []string{"/os/1.0", "/os/1.0/applications", "/os/1.0/applications/incus", "/os/1.0/system/update", "/1.0/cluster/members/" + server.Name()}
	heavy := []string{"/os/1.0/system/resources", "/os/1.0/system/network", "/os/1.0/system/security", "/os/1.0/system/storage"}
	count := func(paths []string) (n int) {
		for _, path := range paths {
			n += server.Requests(path)
		}
		return n
	}
	where := target(server)
	require.Nil(t, probe(t, client, where).Failure)
	require.Equal(t, 5, count(light))
	require.Equal(t, 4, count(heavy))
	require.Zero(t, server.Requests("/1.0"), "the member's name is known")
	where.Light = true
	o := probe(t, client, where)
	require.Nil(t, o.Failure)
	require.True(t, o.Light)
	require.Nil(t, o.Facts)
	require.Equal(t, server.Name(), *o.MemberName)
	require.Equal(t, 10, count(light))
	require.Equal(t, 4, count(heavy))
	// The known name may be outdated.
	where.MemberName = "left-long-ago"
	o = probe(t, client, where)
	require.Empty(t, o.Unread)
	require.Equal(t, server.Name(), *o.MemberName)
	require.Equal(t, 1, server.Requests("/1.0"))
}

func TestUnresolvableHost(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	where := target(server)
	where.ConnectionURL = "https://no-such-host.invalid:8443"
	o := probe(t, newClient(t, incusos.Options{Certificate: identity, Timeout: 2 * time.Second}), where)
	require.NotNil(t, o.Failure)
	require.Equal(t, lifecycle.FailureConnect, o.Failure.Kind)
	require.Contains(t, o.Failure.Message, "no-such-host.invalid")
	require.False(t, strings.Contains(o.Failure.Message, "BEGIN"), "no certificate in the message")
}

// Answers without content count as unread. They must not look like a server without versions, type or maintenance.
func TestEmptyAnswersAreUnread(t *testing.T) {
	answers := map[string]string{
		"/os/1.0":                      `{"environment":{"os_name":"IncusOS","os_version":"202610010000","uptime":1000}}`,
		"/os/1.0/applications":         `["/os/1.0/applications/incus"]`,
		"/os/1.0/applications/incus":   `{"state":{"is_primary":true,"version":"202610010000"}}`,
		"/os/1.0/system/update":        `{"config":{"channel":"stable"},"state":{"needs_reboot":true}}`,
		"/os/1.0/system/resources":     `{}`,
		"/os/1.0/system/network":       `{}`,
		"/os/1.0/system/security":      `{}`,
		"/os/1.0/system/storage":       `{}`,
		"/1.0/cluster/members/one":     `{"status":"Evacuated"}`,
		"/1.0":                         `{"auth":"trusted","environment":{"server_clustered":true,"server_name":"one"}}`,
		"/os/1.0/applications/nothing": `{"state":{}}`,
	}
	for path, lost := range map[string]func(o lifecycle.Observation) bool{
		"/os/1.0": func(o lifecycle.Observation) bool {
			return o.Failure != nil && o.Failure.Kind == lifecycle.FailureAnswer
		},
		"/os/1.0/applications": func(o lifecycle.Observation) bool {
			return o.Type == nil && o.UnreadVersions == lifecycle.VersionsApplications && o.Versions.OS.Version != ""
		},
		"/os/1.0/applications/incus": func(o lifecycle.Observation) bool { // the type follows from the name
			return *o.Type == lifecycle.TypeIncus && o.UnreadVersions == lifecycle.VersionsApplications && len(o.Versions.Applications) == 0
		},
		"/os/1.0/system/update": func(o lifecycle.Observation) bool {
			return o.Type != nil && o.UnreadVersions == lifecycle.VersionsUpdate && len(o.Versions.Applications) > 0
		},
		"/os/1.0/system/resources": func(o lifecycle.Observation) bool { return o.Facts.Hardware == nil && o.Facts.Network != nil },
		"/1.0/cluster/members/one": func(o lifecycle.Observation) bool { return o.Maintenance == nil && o.Type != nil },
	} {
		for _, instead := range []string{"null", `"text"`, "{}", "[]", `["/os/1.0/applications/nothing"]`} {
			if instead == "{}" && path != "/1.0/cluster/members/one" && path != "/os/1.0/applications/incus" {
				continue // an empty object is valid there
			}
			where := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
				metadata := answers[r.URL.Path]
				if r.URL.Path == path {
					metadata = instead
				}
				fmt.Fprintf(w, `{"type":"sync","status_code":200,"metadata":%s}`, metadata)
			})
			where.MemberName = "one"
			o := probe(t, newClient(t, incusos.Options{}), where)
			require.True(t, lost(o), "%s at %s: %+v", instead, path, o)
			require.True(t, o.Failure != nil || len(o.Unread) == 1, "%s at %s: %v", instead, path, o.Unread)
		}
	}
}

// Only a TLS alert about the client certificate means that the server does not trust the control plane.
func TestOtherTLSAlerts(t *testing.T) {
	identity, err := selfsigned.New("old")
	require.NoError(t, err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{identity}, MaxVersion: tls.VersionTLS12})
	require.NoError(t, err)
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	o := probe(t, newClient(t, incusos.Options{}), opscenter.Target{Name: "old", ID: "old", ConnectionURL: "https://" + listener.Addr().String(), Fingerprint: opscenter.Fingerprint(identity.Leaf)})
	require.NotNil(t, o.Failure)
	require.Equal(t, lifecycle.FailureAnswer, o.Failure.Kind, o.Failure.Message)
}
