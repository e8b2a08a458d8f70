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

// After the first there is no full handshake, with one connection for each poll.
func TestHandshakesAreResumed(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity})
	where := target(server)
	for range 5 {
		o := probe(t, client, where)
		require.Nil(t, o.Failure)
		require.Equal(t, where.Fingerprint, o.Presented, "of a resumed session, too")
		server.Cut()
		eventually(t, func() bool { return client.Stats().Open == 0 })
	}
	require.Equal(t, incusos.Stats{Dials: 5, FullHandshakes: 1, ResumedHandshakes: 4, Sessions: 1}, client.Stats())

	// A server that presents another certificate is caught, though there is a session to go on with.
	require.NoError(t, server.SwapCertificate())
	o := probe(t, client, where)
	require.Equal(t, lifecycle.FailureCertificate, o.Failure.Kind)
	require.Equal(t, opscenter.Fingerprint(server.Certificate()), o.Presented, "and it is told which")
}

// What is kept is bounded for the whole fleet.
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
	// One server gets no more than its share, however many ask it at once.
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

// A member of a cluster is known by the certificate that was accepted for it, and no other.
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
	require.Nil(t, o.Failure, "its own is good still")
	require.Empty(t, o.Trust)
	// The certificate is the identity: that its time is over changes nothing.
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
	require.Equal(t, lifecycle.FailureCertificate, probe(t, client, where).Failure.Kind, "there is no public connection URL")
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
	require.Equal(t, lifecycle.FailureCertificate, probe(t, newClient(t, incusos.Options{Certificate: identity}), where).Failure.Kind, "by the system's authorities it is not")
	require.NoError(t, server.Present(&expired))
	require.Equal(t, lifecycle.FailureCertificate, probe(t, client, where).Failure.Kind, "its time is over")
}

// A poll asks for as little as the API allows.
func TestRequestsOfAPoll(t *testing.T) {
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
	require.Zero(t, server.Requests("/1.0"), "which member it is is known")
	where.Light = true
	o := probe(t, client, where)
	require.Nil(t, o.Failure)
	require.True(t, o.Light)
	require.Nil(t, o.Facts)
	require.Equal(t, server.Name(), *o.MemberName)
	require.Equal(t, 10, count(light))
	require.Equal(t, 4, count(heavy))
	// What was known may be out of date.
	where.MemberName = "left-long-ago"
	o = probe(t, client, where)
	require.Empty(t, o.Unread)
	require.Equal(t, server.Name(), *o.MemberName)
	require.Equal(t, 1, server.Requests("/1.0"))
}

func TestNamesThatDoNotResolve(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	where := target(server)
	where.ConnectionURL = "https://no-such-host.invalid:8443"
	o := probe(t, newClient(t, incusos.Options{Certificate: identity, Timeout: 2 * time.Second}), where)
	require.NotNil(t, o.Failure)
	require.Equal(t, lifecycle.FailureConnect, o.Failure.Kind)
	require.Contains(t, o.Failure.Message, "no-such-host.invalid")
	require.False(t, strings.Contains(o.Failure.Message, "BEGIN"), "nothing but what is of use")
}

// What says nothing is not read: it must not look like a server without versions, type or maintenance.
func TestEmptyAnswersWorsenNothing(t *testing.T) {
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
		"/os/1.0/applications/incus": func(o lifecycle.Observation) bool { // the type is told by the name
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
				continue // an object that may be as it is
			}
			where := odd(t, func(w http.ResponseWriter, r *http.Request) {
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

// Only an alert about our certificate says that the server doesn't trust us.
func TestOtherAlertsAreNoDistrust(t *testing.T) {
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
