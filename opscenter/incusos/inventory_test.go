package incusos_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/lxc/incus/v6/shared/api"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestReadList reads lists entry by entry, and says what is wrong with those that are none.
func TestReadList(t *testing.T) {
	answer := ""
	status := http.StatusOK
	where := odd(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	})
	client := newClient(t, incusos.Options{MaxObject: 1000})
	read := func() (out []string, err error) {
		err = client.ReadList(t.Context(), where, "/1.0/x", func(entry json.RawMessage) error {
			out = append(out, string(entry))
			return nil
		})
		return out, err
	}
	const head = `{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"",`
	for text, want := range map[string][]string{
		`"metadata":[{"a": 1},2,"x"]}`:   {`{"a": 1}`, "2", `"x"`},
		`"metadata":[],"new":{"x":[1]}}`: nil,
		`"metadata":null}`:               nil,
	} {
		answer = head + text
		got, err := read()
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	many := strings.Repeat(`{"name":"`+strings.Repeat("x", 500)+`"},`, 5000)
	answer = head + `"metadata":[` + many + `{}]}`
	got, err := read()
	require.NoError(t, err, "the limit is for an entry, not for the list")
	require.Len(t, got, 5001)
	for _, bad := range []string{head + `"metadata":{}}`, head + `"metadata":[1`, head + `"metadata":[1]`, head + `"x":1}`, `[]`, ``, `<html>`, `{"type":"async","metadata":[]}`} {
		answer = bad
		_, err := read()
		require.Error(t, err, bad)
		var refusal inventory.Refusal
		require.False(t, errors.As(err, &refusal), "%s: %v", bad, err)
	}
	answer = head + `"metadata":[{"x":"` + strings.Repeat("y", 3000) + `"}]}`
	_, err = read()
	require.ErrorIs(t, err, incusos.ErrBodyTooLarge)
	var refusal inventory.Refusal
	require.ErrorAs(t, err, &refusal, "other lists can be read")
	answer, status = `{"type":"error","error":"no such thing","error_code":404,"metadata":null}`, http.StatusNotFound
	_, err = read()
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, http.StatusNotFound, refusal.Status())
	require.ErrorContains(t, err, "no such thing")
	for _, text := range []string{"", `{"type":"error","error":"down"}`} { // a proxy's word, and one without a code
		answer, status = text, http.StatusBadGateway
		_, err = read()
		require.ErrorAs(t, err, &refusal, text)
		require.Equal(t, http.StatusBadGateway, refusal.Status(), text)
	}
	answer, status = head+`"metadata":[1,2]}`, http.StatusOK
	stop := errors.New("enough")
	require.ErrorIs(t, client.ReadList(t.Context(), where, "/1.0/x", func(json.RawMessage) error { return stop }), stop)
}

// TestEventsInOrder: all events come, in the order in which they were sent, those before the
// end too; the stream ends with its context, with the server, and with Close.
func TestEventsInOrder(t *testing.T) {
	s, identity := boot(t, incusostest.Options{Name: "sim", Standalone: true})
	client := newClient(t, incusos.Options{Certificate: identity})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client.Events(ctx, target(s))
	require.NoError(t, err)
	for i := range 200 {
		s.Emit("profile-updated", fmt.Sprintf("/1.0/profiles/p%d", i))
	}
	for i := range 200 {
		e, err := stream.Next()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("/1.0/profiles/p%d", i), e.Source)
		require.Equal(t, "profile-updated", e.Action)
		require.Equal(t, "tls/operator", e.Requestor)
		require.Equal(t, "default", e.Project)
	}
	cancel()
	_, err = stream.Next()
	require.Error(t, err)
	require.NoError(t, stream.Close())
	for _, end := range []func(inventory.Stream){func(inventory.Stream) { s.Cut() }, func(s inventory.Stream) { s.Close() }, func(inventory.Stream) { s.Crash() }} {
		stream, err := client.Events(t.Context(), target(s))
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			_, err := stream.Next()
			ended <- err
		}()
		end(stream)
		select {
		case err := <-ended:
			require.Error(t, err)
		case <-time.After(10 * time.Second):
			t.Fatal("the stream does not end")
		}
		require.NoError(t, stream.Close())
	}
	_, err = client.Events(t.Context(), target(s))
	require.Error(t, err, "it is down")
}

// TestOddStreams: peers that are no Incus are found out, and nobody waits for them longer than
// the context lasts.
func TestOddStreams(t *testing.T) {
	var upgrader websocket.Upgrader
	upgraded := func(use func(*websocket.Conn)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, err := upgrader.Upgrade(w, r, nil)
			if err == nil {
				use(conn)
				conn.Close()
			}
		}
	}
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	silent := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	compressed := func(w http.ResponseWriter, r *http.Request) {
		raw, buffer, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer raw.Close()
		_, _ = fmt.Fprintf(buffer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
		_ = buffer.Flush()
		<-release
	}
	client := newClient(t, incusos.Options{Timeout: 500 * time.Millisecond})
	for name, handler := range map[string]http.HandlerFunc{
		"refuses":       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"never answers": silent,
		"never reads":   upgraded(func(*websocket.Conn) { <-release }),
		"compresses":    compressed,
		"hangs up":      upgraded(func(*websocket.Conn) {}),
	} {
		where := odd(t, handler)
		begun := time.Now()
		_, err := client.Events(t.Context(), where)
		require.Error(t, err, name)
		require.Less(t, time.Since(begun), 20*time.Second, name)
		if name == "refuses" {
			var refusal inventory.Refusal
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, http.StatusForbidden, refusal.Status())
		}
	}
	patient := newClient(t, incusos.Options{Timeout: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := patient.Events(ctx, odd(t, silent))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begun), 20*time.Second, "the deadline of a call is a minute")

	for _, bad := range []string{`{"type":"lifecycle"}`, `{"type":"lifecycle","metadata":{}}`, `nonsense`, `{"type":"lifecycle","metadata":7}`, `{"type":"lifecycle","metadata":{"action":"` + strings.Repeat("x", 2<<20) + `"}}`} {
		where := odd(t, upgraded(func(conn *websocket.Conn) {
			_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"operation","metadata":{}}`))
			_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"lifecycle","metadata":{"action":"a","source":"/1.0/x"}}`))
			_ = conn.WriteMessage(websocket.TextMessage, []byte(bad))
			_, _, _ = conn.ReadMessage()
			<-release
		}))
		stream, err := newClient(t, incusos.Options{Timeout: 5 * time.Second}).Events(t.Context(), where)
		if err != nil {
			continue // it came before the answer to the ping
		}
		e, err := stream.Next()
		require.NoError(t, err)
		require.Equal(t, "a", e.Action)
		_, err = stream.Next()
		require.Error(t, err, "what can't be read may have told something: %.60s", bad)
		require.NoError(t, stream.Close())
	}
}

// FuzzEvents feeds the reader of events: whatever comes, it ends, or goes on.
func FuzzEvents(f *testing.F) {
	f.Add(`{"type":"lifecycle","metadata":{"action":"instance-renamed","source":"/1.0/instances/x","context":{"old_name":"y"},"requestor":{"username":"u","protocol":"tls"}},"project":"p"}`)
	f.Add(`{"type":"operation"}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := incusos.ParseEvent([]byte(text))
		if err == nil && e != nil {
			require.NotEmpty(t, e.Action)
		}
	})
}

func newRegistry(t *testing.T) *opscenter.Registry {
	t.Helper()
	registry, err := opscenter.NewRegistry(memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{})
	require.NoError(t, err)
	return registry
}

// TestAdopt takes in a server, and a cluster, which are polled as others from then on.
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
	require.NoError(t, err, "again is no error")
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
	// A member that came later is added, under whatever name the cluster has by now.
	require.NoError(t, registry.RemoveClusterMembers(t.Context(), "c1", "c"))
	require.NoError(t, registry.DeleteServer(t.Context(), "c"))
	require.NoError(t, registry.RenameCluster(t.Context(), "c1", "c2", nil))
	names, err = client.Adopt(t.Context(), registry, "", members[0].TrustToken("x"), incusos.AdoptOptions{})
	require.NoError(t, err)
	require.Len(t, names, 3)
	info, err = registry.Server(t.Context(), "c")
	require.NoError(t, err)
	require.Equal(t, "c2", info.Cluster)
}

// TestAdoptRefuses: no token is told to who it is not of, none is spent in vain, and none shows.
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
	require.Zero(t, other.Requests("/1.0")+other.Requests("/1.0/certificates"), "who is not meant is told nothing")
	require.ErrorIs(t, adopt("https://127.0.0.1:1", token, incusos.AdoptOptions{}), opscenter.ErrUnreachable)

	// Of the token's addresses, those where somebody else is are passed over.
	var parsed api.CertificateAddToken
	data, err := base64.StdEncoding.DecodeString(token)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &parsed))
	host := func(s *incusostest.Server) string { return strings.TrimPrefix(s.URL(), "https://") }
	parsed.Addresses = []string{"127.0.0.1:1", host(other), plainListener(t), host(s)}
	require.NoError(t, adopt("", parsed.String(), incusos.AdoptOptions{Name: "mine"}), "and the token was not spent before")
	require.NoError(t, registry.DeleteServer(t.Context(), "mine"))
	require.NoError(t, s.Reinstall())
	parsed.Fingerprint, parsed.Addresses = opscenter.Fingerprint(s.Certificate()), []string{host(s)}
	require.ErrorIs(t, adopt("", parsed.String(), incusos.AdoptOptions{}), opscenter.ErrRefused, "it is not known any more")

	// A server that says the secret back does not get it into an error, nor does the Incus client into a log.
	echo := odd(t, func(w http.ResponseWriter, r *http.Request) {
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

// TestAdoptTakesNobodysRecord: a cluster that claims somebody else's certificate as a member's
// gets nothing of his.
func TestAdoptTakesNobodysRecord(t *testing.T) {
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
	require.ErrorIs(t, err, opscenter.ErrNotFound, "all or nothing")
}

// accept is the answer to a websocket's key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// plainListener is somebody who speaks no TLS.
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

// adopting returns a client and a registry to adopt with, and counts nothing.
func adopting(t *testing.T) (*opscenter.Registry, func(where, token string, options incusos.AdoptOptions) ([]string, error)) {
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	client := newClient(t, incusos.Options{Certificate: &identity})
	registry := newRegistry(t)
	return registry, func(where, token string, options incusos.AdoptOptions) ([]string, error) {
		return client.Adopt(t.Context(), registry, where, token, options)
	}
}

const postedCertificates = "POST /1.0/certificates"

// Member names that every cluster uses, and that are no server's names, are made free; those that
// are given are checked before the token is spent.
func TestAdoptNames(t *testing.T) {
	registry, adopt := adopting(t)
	for _, test := range []struct {
		member     string
		standalone bool
		options    incusos.AdoptOptions
		want       string // a part: the rest is of the fingerprint
	}{
		{"node1", false, incusos.AdoptOptions{Name: "berlin"}, "node1"},
		{"node1", false, incusos.AdoptOptions{Name: "paris"}, "node1-paris"},
		{"node1", false, incusos.AdoptOptions{}, "node1-node1"}, // the cluster's name is made of its first member's
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
			require.Equal(t, test.member, info.State.MemberName, "its name in the cluster stays")
			require.NotEmpty(t, info.Cluster)
		}
	}
	s, _ := boot(t, incusostest.Options{Name: "node1"})
	require.NoError(t, incusostest.Cluster(s))
	token := s.TrustToken("x")
	require.NoError(t, registry.SetChannel(t.Context(), "testing", ""))
	for what, options := range map[string]incusos.AdoptOptions{
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
		require.Error(t, err, what)
		require.Zero(t, s.Requests(postedCertificates), "%s: the token is not spent", what)
	}
	_, err := adopt(s.URL(), token, incusos.AdoptOptions{Names: map[string]string{"node9": "x"}})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions, "what can't be known before is refused after")
	require.ErrorContains(t, err, "the same token serves again")
	names, err := adopt(s.URL(), token, incusos.AdoptOptions{Name: "late"})
	require.NoError(t, err, "and it does")
	require.Equal(t, []string{"node1-late"}, names)
	require.Equal(t, 1, s.Requests(postedCertificates))
}

// A cluster may list addresses of a network of its own: the URL that worked is kept, others can be given.
func TestAdoptURLs(t *testing.T) {
	registry, adopt := adopting(t)
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

// What a failed join, or a renaming, leaves in a cluster's trust store is taken for no member's own.
func TestAdoptLeftovers(t *testing.T) {
	for range 4 { // the store lists by fingerprint: either may come first
		registry, adopt := adopting(t)
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
		require.NotContains(t, err.Error(), opscenter.Fingerprint(over.Leaf), "one that has expired is none")
		page, err := registry.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{})
		require.NoError(t, err)
		require.Empty(t, page.Servers)
		names, err := adopt(s.URL(), token, incusos.AdoptOptions{Name: "c1", Certificates: map[string]string{"node1": strings.ToUpper(own)}})
		require.NoError(t, err)
		info, err := registry.Server(t.Context(), names[0])
		require.NoError(t, err)
		require.Equal(t, own, info.Fingerprint)
		_, err = adopt(s.URL(), token, incusos.AdoptOptions{})
		require.NoError(t, err, "from then on it is known which one it is")
	}
	_, adopt := adopting(t)
	s, _ := boot(t, incusostest.Options{Name: "node2"})
	require.NoError(t, incusostest.Cluster(s))
	s.NameCertificate("node1") // it was renamed
	_, err := adopt(s.URL(), s.TrustToken("x"), incusos.AdoptOptions{Name: "c1"})
	require.ErrorIs(t, err, incusos.ErrAmbiguousCertificate)
	_, err = adopt(s.URL(), s.TrustToken("x"), incusos.AdoptOptions{Name: "c1", Certificates: map[string]string{"node2": opscenter.Fingerprint(s.Certificate())}})
	require.NoError(t, err)
}

// TestAdoptBounds: a cluster that lists too much, or two members of one name, is not adopted.
func TestAdoptBounds(t *testing.T) {
	var many []string
	for i := range incusos.MaxMembers + 1 {
		many = append(many, fmt.Sprint(i))
	}
	require.NoError(t, incusos.IndexFound(many[1:], incusos.MaxCertificates))
	require.ErrorContains(t, incusos.IndexFound(many, 1), "at most 1000")
	require.ErrorContains(t, incusos.IndexFound(many[:1], incusos.MaxCertificates+1), "10000 are taken")
	require.ErrorContains(t, incusos.IndexFound([]string{"a", "b", "a"}, 1), "two members a")
}
