package incusos_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lxc/incus/v6/shared/api"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func newRegistry(t *testing.T) *opscenter.Registry {
	t.Helper()
	registry, err := opscenter.NewRegistry(memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{})
	require.NoError(t, err)
	return registry
}

// Adopt adds a server, and all members of a cluster, to the registry. They can be polled from then on.
func TestAdopt(t *testing.T) {
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	client := newClient(t, incusos.Options{Certificate: &identity})
	registry := newRegistry(t)
	alone, _ := boot(t, incusostest.Options{Name: "alone", Standalone: true})
	names, err := client.Adopt(t.Context(), registry, "", alone.TrustToken("x"), incusos.AdoptOptions{Name: "first"})
	require.NoError(t, err)
	require.Equal(t, []string{"first"}, names)
	info, err := registry.Server(t.Context(), "first")
	require.NoError(t, err)
	require.Equal(t, lifecycle.StatusPending, info.State.Status)
	require.Equal(t, alone.URL(), info.ConnectionURL)
	require.Equal(t, opscenter.Fingerprint(alone.Certificate()), info.Fingerprint)
	o := client.Probe(t.Context(), info.Target())
	require.Nil(t, o.Failure, "%+v", o.Failure)
	names, err = client.Adopt(t.Context(), registry, alone.URL()+"/", alone.TrustToken("x"), incusos.AdoptOptions{})
	require.NoError(t, err, "a second adoption is no error")
	require.Equal(t, []string{"first"}, names)

	var members []*incusostest.Server
	for _, name := range []string{"a", "b", "c"} {
		s, _ := boot(t, incusostest.Options{Name: name})
		members = append(members, s)
	}
	require.NoError(t, incusostest.Cluster(members...))
	names, err = client.Adopt(t.Context(), registry, members[1].URL(), members[1].TrustToken("x"), incusos.AdoptOptions{Name: "c1"})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"a", "b", "c"}, names)
	record, err := registry.Cluster(t.Context(), "c1")
	require.NoError(t, err)
	require.Equal(t, opscenter.ClusterReady, record.Status)
	require.Equal(t, opscenter.Fingerprint(members[0].ClusterCertificate().Leaf), record.Fingerprint)
	for i, name := range []string{"a", "b"} {
		info, err := registry.Server(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, "c1", info.Cluster)
		require.Equal(t, opscenter.Fingerprint(members[i].Certificate()), info.Fingerprint)
		require.Equal(t, record.Fingerprint, info.ServedFingerprint)
		require.Equal(t, name, info.State.MemberName)
		o := client.Probe(t.Context(), info.Target())
		require.Nil(t, o.Failure, "%+v", o.Failure)
	}
	// A second adoption adds a new member, even after the cluster was renamed in the registry.
	require.NoError(t, registry.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{}, "c"))
	require.NoError(t, registry.DeleteServer(t.Context(), "c", false))
	require.NoError(t, registry.RenameCluster(t.Context(), "c1", "c2", nil))
	names, err = client.Adopt(t.Context(), registry, "", members[0].TrustToken("x"), incusos.AdoptOptions{})
	require.NoError(t, err)
	require.Len(t, names, 3)
	info, err = registry.Server(t.Context(), "c")
	require.NoError(t, err)
	require.Equal(t, "c2", info.Cluster)
}

// Adopt sends a token only to its server, spends none in vain, and puts none into errors.
func TestAdoptRefuses(t *testing.T) {
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	client := newClient(t, incusos.Options{Certificate: &identity, Timeout: 2 * time.Second})
	registry := newRegistry(t)
	s, _ := boot(t, incusostest.Options{Name: "sim", Standalone: true})
	other, _ := boot(t, incusostest.Options{Name: "other", Standalone: true})
	token := s.TrustToken("x")
	adopt := func(where, token string, options incusos.AdoptOptions) error {
		_, err := client.Adopt(t.Context(), registry, where, token, options)
		if err != nil && token != "" {
			require.NotContains(t, err.Error(), token)
		}
		return err
	}
	require.ErrorIs(t, adopt("", "", incusos.AdoptOptions{}), incusos.ErrTrustToken)
	require.ErrorIs(t, adopt("", "bm9uc2Vuc2U=", incusos.AdoptOptions{}), opscenter.ErrInvalidToken)
	expired := api.CertificateAddToken{ClientName: "x", Fingerprint: opscenter.Fingerprint(s.Certificate()), Secret: "s", ExpiresAt: time.Now().Add(-time.Minute)}
	require.ErrorIs(t, adopt(s.URL(), expired.String(), incusos.AdoptOptions{}), incusos.ErrTrustTokenExpired)
	for _, bad := range []string{"http://127.0.0.1:8443", "https://user:pw@127.0.0.1:1", "https://127.0.0.1:1/x", "https://127.0.0.1:1?x", "%"} {
		err := adopt(bad, token, incusos.AdoptOptions{})
		require.ErrorIs(t, err, opscenter.ErrInvalidURL, bad)
		require.NotContains(t, err.Error(), "pw")
	}
	require.ErrorIs(t, adopt(s.URL(), token, incusos.AdoptOptions{Name: "-/"}), opscenter.ErrInvalidName)
	require.ErrorIs(t, adopt(s.URL(), token, incusos.AdoptOptions{Channel: "none"}), opscenter.ErrNotFound)
	err = adopt(other.URL(), token, incusos.AdoptOptions{})
	require.ErrorIs(t, err, incusos.ErrCertificate)
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	require.Zero(t, other.Requests("/1.0")+other.Requests("/1.0/certificates"), "the other server receives nothing")
	require.ErrorIs(t, adopt("https://127.0.0.1:1", token, incusos.AdoptOptions{}), opscenter.ErrUnreachable)

	// Adopt skips addresses of the token at which another server answers.
	var parsed api.CertificateAddToken
	data, err := base64.StdEncoding.DecodeString(token)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &parsed))
	host := func(s *incusostest.Server) string { return strings.TrimPrefix(s.URL(), "https://") }
	parsed.Addresses = []string{"127.0.0.1:1", host(other), plainListener(t), host(s)}
	require.NoError(t, adopt("", parsed.String(), incusos.AdoptOptions{Name: "mine"}), "the token is still valid")
	require.NoError(t, registry.DeleteServer(t.Context(), "mine", false))
	require.NoError(t, s.Reinstall())
	parsed.Fingerprint, parsed.Addresses = opscenter.Fingerprint(s.Certificate()), []string{host(s)}
	require.ErrorIs(t, adopt("", parsed.String(), incusos.AdoptOptions{}), opscenter.ErrRefused, "the server no longer knows the token")

	// A server that repeats the secret in its answer does not get it into an error.
	echo := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `{"type":"sync","status_code":200,"metadata":{"auth":"untrusted"}}`)
			return
		}
		answer, _ := json.Marshal(map[string]any{"type": "error", "error_code": 400, "error": string(body)})
		_, _ = w.Write(answer)
	})
	leaky := api.CertificateAddToken{ClientName: "x", Fingerprint: echo.Fingerprint, Secret: "a-secret-of-some-length", ExpiresAt: time.Now().Add(time.Hour)}
	err = adopt(echo.ConnectionURL, leaky.String(), incusos.AdoptOptions{})
	require.ErrorIs(t, err, opscenter.ErrRefused)
	require.NotContains(t, err.Error(), leaky.Secret)
}

// A cluster that claims the certificate of another registered server is refused, and that server's record does
// not change.
func TestAdoptRefusesKnownCertificate(t *testing.T) {
	registry := newRegistry(t)
	own, err := selfsigned.New("honest")
	require.NoError(t, err)
	evil, err := selfsigned.New("evil")
	require.NoError(t, err)
	require.NoError(t, registry.Adopt(t.Context(), opscenter.Adoption{Servers: []opscenter.AdoptedServer{{Name: "honest", ConnectionURL: "https://10.0.0.1:8443", Certificate: own.Leaf}}}))
	err = registry.Adopt(t.Context(), opscenter.Adoption{Cluster: "evil", Certificate: evil.Leaf, Servers: []opscenter.AdoptedServer{{Name: "m2", ConnectionURL: "https://10.0.0.2:8443", Certificate: own.Leaf, MemberName: "m2"}}})
	require.ErrorIs(t, err, opscenter.ErrIdentityTaken)
	info, err := registry.Server(t.Context(), "honest")
	require.NoError(t, err)
	require.Empty(t, info.Cluster)
	require.Empty(t, info.ServedFingerprint)
	_, err = registry.Cluster(t.Context(), "evil")
	require.ErrorIs(t, err, opscenter.ErrNotFound, "the cluster is not recorded")
}

// plainListener starts a server without TLS, and returns its address.
func plainListener(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "220 hello\r\n")
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// adopter returns a registry, and a function that adopts servers into it.
func adopter(t *testing.T) (*opscenter.Registry, func(where, token string, options incusos.AdoptOptions) ([]string, error)) {
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	client := newClient(t, incusos.Options{Certificate: &identity})
	registry := newRegistry(t)
	return registry, func(where, token string, options incusos.AdoptOptions) ([]string, error) {
		return client.Adopt(t.Context(), registry, where, token, options)
	}
}

const postedCertificates = "POST /1.0/certificates"

// Adopt extends names that are taken, and corrects names that a server can't have. It validates given names
// before it spends the token.
func TestAdoptNames(t *testing.T) {
	registry, adopt := adopter(t)
	for _, test := range []struct {
		member     string
		standalone bool
		options    incusos.AdoptOptions
		want       string // a prefix: a part of the fingerprint may follow
	}{
		{"node1", false, incusos.AdoptOptions{Name: "berlin"}, "node1"},
		{"node1", false, incusos.AdoptOptions{Name: "paris"}, "node1-paris"},
		{"node1", false, incusos.AdoptOptions{}, "node1-node1"}, // the cluster gets the name of its first member
		{"node1", false, incusos.AdoptOptions{}, "node1-node1-"},
		{"node_1", false, incusos.AdoptOptions{Name: "rome"}, "node_1"},
		{"node/1", false, incusos.AdoptOptions{Name: "oslo"}, "node-1"},
		{strings.Repeat("n", 64), false, incusos.AdoptOptions{}, strings.Repeat("n", 64)},
		{"debian", true, incusos.AdoptOptions{}, "debian"},
		{"debian", true, incusos.AdoptOptions{}, "debian-"},
		{"node1", false, incusos.AdoptOptions{Name: "wien", Names: map[string]string{"node1": "wien-1"}}, "wien-1"},
	} {
		s, _ := boot(t, incusostest.Options{Name: test.member, Standalone: test.standalone})
		if !test.standalone {
			require.NoError(t, incusostest.Cluster(s))
		}
		names, err := adopt(s.URL(), s.TrustToken("x"), test.options)
		require.NoError(t, err, "%+v", test)
		require.Len(t, names, 1)
		require.True(t, strings.HasPrefix(names[0], test.want), "%s for %+v", names[0], test)
		info, err := registry.Server(t.Context(), names[0])
		require.NoError(t, err)
		if !test.standalone {
			require.Equal(t, test.member, info.State.MemberName, "the name in the cluster does not change")
			require.NotEmpty(t, info.Cluster)
		}
	}
	s, _ := boot(t, incusostest.Options{Name: "node1"})
	require.NoError(t, incusostest.Cluster(s))
	token := s.TrustToken("x")
	require.NoError(t, registry.Channels().Create(t.Context(), "testing", ""))
	for field, options := range map[string]incusos.AdoptOptions{
		"name":                {Name: "a b"},
		"taken cluster":       {Name: "berlin"},
		"taken by a server":   {Name: "debian"},
		"channel":             {Channel: "none"},
		"member's name":       {Names: map[string]string{"node1": "a/b"}},
		"member's name taken": {Names: map[string]string{"node1": "DEBIAN"}},
		"two of one name":     {Names: map[string]string{"node1": "x", "node2": "X"}},
		"URL":                 {URLs: map[string]string{"node1": "https://0.0.0.0:8443"}},
		"fingerprint":         {Certificates: map[string]string{"node1": "abc"}},
	} {
		_, err := adopt(s.URL(), token, options)
		require.Error(t, err, field)
		require.Zero(t, s.Requests(postedCertificates), "%s: the token is not spent", field)
	}
	_, err := adopt(s.URL(), token, incusos.AdoptOptions{Names: map[string]string{"node9": "x"}})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions, "members are known only after the token is spent")
	require.ErrorContains(t, err, "the same token can be used again")
	names, err := adopt(s.URL(), token, incusos.AdoptOptions{Name: "late"})
	require.NoError(t, err, "the token is still valid")
	require.Equal(t, []string{"node1-late"}, names)
	require.Equal(t, 1, s.Requests(postedCertificates))
}

// A cluster may list addresses that can't be reached. Adopt keeps the URL that worked, and AdoptOptions.URLs gives others.
func TestAdoptURLs(t *testing.T) {
	registry, adopt := adopter(t)
	a, _ := boot(t, incusostest.Options{Name: "a"})
	b, _ := boot(t, incusostest.Options{Name: "b"})
	require.NoError(t, incusostest.Cluster(a, b))
	a.ListAddress("https://192.0.2.1:8443")
	b.ListAddress("https://[::]:8443")
	token := a.TrustToken("x")
	_, err := adopt("", token, incusos.AdoptOptions{Name: "c1"})
	require.ErrorContains(t, err, "lists member b at an address")
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	_, err = adopt("", token, incusos.AdoptOptions{Name: "c1", URLs: map[string]string{"b": b.URL()}})
	require.NoError(t, err)
	for _, s := range []*incusostest.Server{a, b} {
		info, err := registry.Server(t.Context(), s.Name())
		require.NoError(t, err)
		require.Equal(t, s.URL(), info.ConnectionURL)
	}
}

// A failed join, or a renamed member, makes a member's certificate ambiguous. Adopt then needs AdoptOptions.Certificates.
func TestAdoptAmbiguousCertificates(t *testing.T) {
	for range 4 { // the store sorts by fingerprint, which is random
		registry, adopt := adopter(t)
		s, _ := boot(t, incusostest.Options{Name: "node1"})
		require.NoError(t, incusostest.Cluster(s))
		stale, err := selfsigned.New("root@old")
		require.NoError(t, err)
		over, err := selfsigned.Expired("root@older")
		require.NoError(t, err)
		s.LeaveCertificate("node1", stale.Leaf)
		s.LeaveCertificate("node1", over.Leaf)
		token := s.TrustToken("x")
		_, err = adopt(s.URL(), token, incusos.AdoptOptions{Name: "c1"})
		require.ErrorIs(t, err, incusos.ErrAmbiguousCertificate)
		own := opscenter.Fingerprint(s.Certificate())
		require.ErrorContains(t, err, own)
		require.ErrorContains(t, err, opscenter.Fingerprint(stale.Leaf))
		require.NotContains(t, err.Error(), opscenter.Fingerprint(over.Leaf), "an expired certificate is no candidate")
		page, err := registry.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{})
		require.NoError(t, err)
		require.Empty(t, page.Servers)
		names, err := adopt(s.URL(), token, incusos.AdoptOptions{Name: "c1", Certificates: map[string]string{"node1": strings.ToUpper(own)}})
		require.NoError(t, err)
		info, err := registry.Server(t.Context(), names[0])
		require.NoError(t, err)
		require.Equal(t, own, info.Fingerprint)
		_, err = adopt(s.URL(), token, incusos.AdoptOptions{})
		require.NoError(t, err, "the registry knows the certificate now")
	}
	_, adopt := adopter(t)
	s, _ := boot(t, incusostest.Options{Name: "node2"})
	require.NoError(t, incusostest.Cluster(s))
	s.NameCertificate("node1") // the member was renamed
	_, err := adopt(s.URL(), s.TrustToken("x"), incusos.AdoptOptions{Name: "c1"})
	require.ErrorIs(t, err, incusos.ErrAmbiguousCertificate)
	_, err = adopt(s.URL(), s.TrustToken("x"), incusos.AdoptOptions{Name: "c1", Certificates: map[string]string{"node2": opscenter.Fingerprint(s.Certificate())}})
	require.NoError(t, err)
}

// A cluster with too many members or certificates, or with two members of the same name, is not adopted.
func TestAdoptLimits(t *testing.T) {
	var many []string
	for i := range incusos.MaxMembers + 1 {
		many = append(many, fmt.Sprint(i))
	}
	require.NoError(t, incusos.IndexMembers(many[1:], incusos.MaxCertificates))
	require.ErrorContains(t, incusos.IndexMembers(many, 1), "at most 1000")
	require.ErrorContains(t, incusos.IndexMembers(many[:1], incusos.MaxCertificates+1), "10000 are supported")
	require.ErrorContains(t, incusos.IndexMembers([]string{"a", "b", "a"}, 1), "two members a")
}
