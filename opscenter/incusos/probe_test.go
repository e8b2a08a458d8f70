package incusos_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// boot starts a simulated server that trusts the returned identity.
func boot(t testing.TB, options incusostest.Options) (*incusostest.Server, *tls.Certificate) {
	t.Helper()
	server, err := incusostest.New(options)
	require.NoError(t, err)
	t.Cleanup(server.Close)
	identity, err := selfsigned.New("control plane")
	require.NoError(t, err)
	server.Trust(identity.Leaf)
	return server, &identity
}

// newClient returns a client that is closed at the end of the test.
func newClient(t testing.TB, options incusos.Options) *incusos.Client {
	client := incusos.New(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// target returns the target of a simulated server.
func target(s *incusostest.Server) opscenter.Target {
	return opscenter.Target{Name: s.Name(), ID: s.Name(), ConnectionURL: s.URL(), Fingerprint: opscenter.Fingerprint(s.Certificate()), Type: lifecycle.TypeIncus, MemberName: s.Name()}
}

func probe(t testing.TB, client *incusos.Client, target opscenter.Target) lifecycle.Observation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return client.Probe(ctx, target)
}

func TestProbe(t *testing.T) {
	for application, kind := range map[string]lifecycle.ServerType{"incus": lifecycle.TypeIncus, "incus-lts-6.0": lifecycle.TypeIncus,
		"migration-manager": lifecycle.TypeMigrationManager, "operations-center": lifecycle.TypeOperationsCenter, "something-else": lifecycle.TypeUnknown} {
		for _, legacy := range []bool{false, true} {
			server, identity := boot(t, incusostest.Options{Application: application, Version: "202610010000", LegacyReady: legacy})
			client := newClient(t, incusos.Options{Certificate: identity})
			o := probe(t, client, target(server))
			require.Nil(t, o.Failure)
			require.Empty(t, o.Unread)
			require.True(t, o.Ready)
			require.Equal(t, kind, *o.Type)
			require.Equal(t, lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000", VersionNext: "202610010000"}, o.Versions.OS)
			require.Equal(t, lifecycle.ApplicationVersion{Name: application, Version: "202610010000", FriendlyVersion: "7.3", Primary: true}, o.Versions.Applications[0])
			require.Equal(t, "stable", o.Versions.UpdateChannel)
			require.WithinDuration(t, time.Now().Add(-time.Hour), o.BootedAt, time.Minute)
			require.True(t, *o.SystemStateTrusted)
			require.Greater(t, len(o.Facts.Hardware), 20<<10)
			require.Less(t, len(o.Facts.Hardware), 40<<10)
			for _, part := range []json.RawMessage{o.Facts.Network, o.Facts.Security, o.Facts.Storage} {
				require.Greater(t, len(part), 300)
			}
			require.NotContains(t, string(o.Facts.Network)+string(o.Facts.Security), "simulated-", "secrets are removed")
			require.NotContains(t, string(o.Facts.Network), "c2ltdWxhdGVkLXBy", "secrets in base64 are removed")
			if kind == lifecycle.TypeIncus {
				require.Equal(t, server.Name(), *o.MemberName)
				require.Equal(t, lifecycle.NotInMaintenance, *o.Maintenance)
			} else {
				require.Nil(t, o.Maintenance)
			}
		}
	}
	server, identity := boot(t, incusostest.Options{Standalone: true})
	o := probe(t, newClient(t, incusos.Options{Certificate: identity, KeepSecrets: true}), target(server))
	require.Empty(t, *o.MemberName, "an Incus server in no cluster")
	require.Contains(t, string(o.Facts.Network), "c2ltdWxhdGVkLXByaXZhdGUta2V5", "KeepSecrets keeps secrets")
}

// A probe of a server with a fault ends with its deadline, and reports the kind of failure. It succeeds after the fault.
func TestEachFault(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity, Timeout: 300 * time.Millisecond, MaxBody: 1 << 20})
	where := target(server)
	want := map[incusostest.FaultKind]string{
		incusostest.FaultDown: lifecycle.FailureConnect, incusostest.FaultSilent: lifecycle.FailureTimeout, incusostest.FaultHang: lifecycle.FailureTimeout,
		incusostest.FaultSlow: lifecycle.FailureTimeout, incusostest.FaultTrickle: lifecycle.FailureTimeout, incusostest.FaultGarbage: lifecycle.FailureAnswer,
		incusostest.FaultTruncated: lifecycle.FailureAnswer, incusostest.FaultHuge: lifecycle.FailureAnswer, incusostest.FaultWrongCertificate: lifecycle.FailureCertificate,
		incusostest.FaultError: lifecycle.FailureAnswer, incusostest.FaultNotFound: lifecycle.FailureAnswer, incusostest.FaultExpiredCertificate: lifecycle.FailureCertificate, incusostest.FaultReset: lifecycle.FailureAnswer,
	}
	for _, kind := range incusostest.Faults {
		t.Run(string(kind), func(t *testing.T) {
			require.NoError(t, server.SetFault(incusostest.Fault{Kind: kind}))
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
				begun := time.Now()
				o := client.Probe(ctx, where)
				cancel()
				require.Less(t, time.Since(begun), 20*time.Second, "the probe ends with its deadline")
				require.NotNil(t, o.Failure)
				require.Equal(t, want[kind], o.Failure.Kind, o.Failure.Message)
				require.Nil(t, o.Type)
			}
			require.NoError(t, server.SetFault(incusostest.Fault{}))
			require.Nil(t, probe(t, client, where).Failure, "the probe succeeds after the fault")
		})
	}
}

// A fault of one path is no failure of the probe. The unread values are nil, and Unread names the path.
func TestPartialFaults(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity, Timeout: 200 * time.Millisecond})
	for path, lost := range map[string]func(o lifecycle.Observation) bool{
		"/os/1.0/applications": func(o lifecycle.Observation) bool {
			return o.Type == nil && o.UnreadVersions == lifecycle.VersionsApplications && o.Versions.OS.Version != ""
		},
		"/os/1.0/system/update": func(o lifecycle.Observation) bool {
			return o.Type != nil && o.UnreadVersions == lifecycle.VersionsUpdate && len(o.Versions.Applications) > 0
		},
		"/os/1.0/system/resources": func(o lifecycle.Observation) bool { return o.Facts.Hardware == nil && o.Facts.Network != nil },
		"/os/1.0/system/security":  func(o lifecycle.Observation) bool { return o.Facts.Security == nil && o.SystemStateTrusted == nil },
		"/1.0/cluster/members":     func(o lifecycle.Observation) bool { return o.Maintenance == nil && o.MemberName == nil },
	} {
		for _, kind := range []incusostest.FaultKind{incusostest.FaultError, incusostest.FaultGarbage, incusostest.FaultTruncated, incusostest.FaultHuge, incusostest.FaultSlow} {
			require.NoError(t, server.SetFault(incusostest.Fault{Kind: kind, Path: path}))
			o := probe(t, client, target(server))
			require.Nil(t, o.Failure, "%s at %s", kind, path)
			require.True(t, o.Ready)
			require.True(t, lost(o), "%s at %s: %+v", kind, path, o)
			require.Len(t, o.Unread, 1)
			require.Contains(t, o.Unread[0], path)
		}
	}
}

func TestTrust(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	stranger, err := selfsigned.New("stranger")
	require.NoError(t, err)
	for name, certificate := range map[string]*tls.Certificate{"untrusted": &stranger, "none": nil} {
		o := probe(t, newClient(t, incusos.Options{Certificate: certificate}), target(server))
		require.NotNil(t, o.Failure, name)
		require.Equal(t, lifecycle.FailureUntrusted, o.Failure.Kind, name)
	}
	// The certificate is verified on open connections and resumed sessions.
	client := newClient(t, incusos.Options{Certificate: identity})
	where := target(server)
	require.Nil(t, probe(t, client, where).Failure)
	require.NoError(t, server.SwapCertificate())
	o := probe(t, client, where)
	require.NotNil(t, o.Failure)
	require.Equal(t, lifecycle.FailureCertificate, o.Failure.Kind)
	require.Nil(t, probe(t, client, target(server)).Failure, "the new certificate is registered")
}

// One connection serves all requests of several probes.
func TestConnectionsAreKept(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	proxy, dials := countingProxy(t, strings.TrimPrefix(server.URL(), "https://"))
	where := target(server)
	where.ConnectionURL = "https://" + proxy
	client := newClient(t, incusos.Options{Certificate: identity})
	for range 5 {
		o := probe(t, client, where)
		require.Nil(t, o.Failure)
		require.Empty(t, o.Unread)
	}
	require.EqualValues(t, 1, dials(), "one connection for 5 probes of a dozen requests")
}

// countingProxy forwards connections, and counts them.
func countingProxy(t *testing.T, to string) (address string, dials func() int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	counted := make(chan int, 1)
	counted <- 0
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			counted <- <-counted + 1
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go pipe(in, out)
			go pipe(out, in)
		}
	}()
	t.Cleanup(func() { listener.Close(); <-ended })
	return listener.Addr().String(), func() int { n := <-counted; counted <- n; return n }
}

// pipe copies from one connection to another until one of them ends, and closes both.
func pipe(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
}

// An Incus daemon without IncusOS can be observed, with either of its two answers to /os/ requests.
func TestPlainIncus(t *testing.T) {
	for status, text := range map[int]string{http.StatusBadRequest: "System isn't running IncusOS", http.StatusNotFound: "not found"} {
		identity, err := selfsigned.New("plain")
		require.NoError(t, err)
		mux := http.NewServeMux()
		answer := func(w http.ResponseWriter, metadata any) {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": "sync", "status": "Success", "status_code": 200, "metadata": metadata})
		}
		mux.HandleFunc("/os/", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]any{"type": "error", "error_code": status, "error": text})
		})
		auth := "trusted"
		mux.HandleFunc("GET /1.0", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, map[string]any{"auth": auth, "environment": map[string]any{"server_version": "6.0.4", "os_name": "Debian GNU/Linux", "os_version": "12", "server_name": "plain"}})
		})
		mux.HandleFunc("GET /1.0/resources", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, map[string]any{"cpu": map[string]any{"total": 2}})
		})
		web := httptest.NewUnstartedServer(mux)
		web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
		web.StartTLS()
		where := opscenter.Target{Name: "plain", ID: "plain", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf)}
		client := newClient(t, incusos.Options{})
		o := probe(t, client, where)
		require.Nil(t, o.Failure)
		require.Empty(t, o.Unread)
		require.True(t, o.Ready)
		require.Equal(t, lifecycle.TypeIncus, *o.Type)
		require.Equal(t, "6.0.4", o.Versions.Applications[0].Version)
		require.True(t, o.Versions.OS.Plain)
		require.JSONEq(t, `{"cpu":{"total":2}}`, string(o.Facts.Hardware))
		require.Empty(t, o.Versions.Outdated(map[string]string{"os": "202610150000", "incus": "202610150000"}), "no OS update")
		auth = "untrusted"
		o = probe(t, client, where)
		require.Equal(t, lifecycle.FailureUntrusted, o.Failure.Kind)
		web.Close()
	}
}

// Requests go to the server only, even if it redirects.
func TestRedirectsAreNotFollowed(t *testing.T) {
	identity, err := selfsigned.New("pointer")
	require.NoError(t, err)
	reached := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer elsewhere.Close()
	web := httptest.NewUnstartedServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
	web.StartTLS()
	defer web.Close()
	o := probe(t, newClient(t, incusos.Options{}), opscenter.Target{Name: "pointer", ID: "pointer", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf)})
	require.NotNil(t, o.Failure)
	require.Contains(t, o.Failure.Message, incusos.ErrRedirect.Error())
	require.False(t, reached)
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	require.Eventually(t, done, 10*time.Second, 10*time.Millisecond)
}

func TestBadTargetsAndClose(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := incusos.New(incusos.Options{Certificate: identity})
	where := target(server)
	bad := where
	bad.ID, bad.Fingerprint = "bad", "no certificate"
	require.Contains(t, client.Probe(t.Context(), bad).Failure.Message, opscenter.ErrInvalidCertificate.Error())
	bad = where
	bad.ID, bad.ConnectionURL = "bad", "::"
	require.Contains(t, client.Probe(t.Context(), bad).Failure.Message, opscenter.ErrInvalidURL.Error())

	// Closing ends dials that hang.
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultSilent}))
	ended := make(chan lifecycle.Observation)
	go func() { ended <- client.Probe(context.Background(), where) }()
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, client.Close())
	select {
	case o := <-ended:
		require.NotNil(t, o.Failure)
	case <-time.After(5 * time.Second):
		t.Fatal("a dial outlived its client")
	}
	require.Contains(t, client.Probe(t.Context(), where).Failure.Message, incusos.ErrClosed.Error())
}

// Many probes of a silent server leak no sockets and no goroutines.
func TestNoLeaks(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity, Timeout: 50 * time.Millisecond})
	where := target(server)
	require.Nil(t, probe(t, client, where).Failure)
	for _, kind := range []incusostest.FaultKind{incusostest.FaultSilent, incusostest.FaultHang} {
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: kind}))
		goroutines, files := runtime.NumGoroutine(), openFiles(t)
		for range 30 {
			require.NotNil(t, probe(t, client, where).Failure)
		}
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
		eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+2 && openFiles(t) <= files })
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // not on Linux
	}
	return len(entries)
}

// serveTLS starts a TLS server with a handler, and returns its target.
func serveTLS(t *testing.T, handler http.HandlerFunc) opscenter.Target {
	identity, err := selfsigned.New("serveTLS")
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(handler)
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
	web.StartTLS()
	t.Cleanup(func() { web.CloseClientConnections(); web.Close() })
	return opscenter.Target{Name: "serveTLS", ID: "serveTLS", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf)}
}

// Long texts of a server are cut before they are stored or logged.
func TestLongTextsAreCut(t *testing.T) {
	novel := strings.Repeat("x", 1<<20)
	o := probe(t, newClient(t, incusos.Options{}), serveTLS(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "error", "error_code": 500, "error": novel})
	}))
	require.NotNil(t, o.Failure)
	require.Less(t, len(o.Failure.Message), 1000)
	o = probe(t, newClient(t, incusos.Options{}), serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]any{"type": "sync", "status_code": 200}
		switch r.URL.Path {
		case "/os/1.0":
			answer["metadata"] = map[string]any{"environment": map[string]any{"os_name": novel, "os_version": novel, "os_version_next": novel, "uptime": 1000}}
		case "/os/1.0/applications":
			answer["metadata"] = []string{"/os/1.0/applications/incus"}
		case "/os/1.0/applications/incus":
			answer["metadata"] = map[string]any{"state": map[string]any{"version": novel, "friendly_version": novel, "is_primary": true}}
		case "/os/1.0/system/update":
			answer["metadata"] = map[string]any{"config": map[string]any{"channel": novel}}
		default:
			w.WriteHeader(http.StatusInternalServerError)
			answer = map[string]any{"type": "error", "error": novel}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	require.Nil(t, o.Failure)
	data, err := json.Marshal(o)
	require.NoError(t, err)
	require.Less(t, len(data), 10_000)
}

// An endless answer is a failure, and ends with the deadline of the call.
func TestEndlessAnswers(t *testing.T) {
	where := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "sync", "status_code": 200, "metadata": map[string]any{"environment": map[string]any{"uptime": 1000}}})
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // never complete the answer
	})
	begun := time.Now()
	o := probe(t, newClient(t, incusos.Options{Timeout: 200 * time.Millisecond, CallTimeout: 300 * time.Millisecond}), where)
	require.NotNil(t, o.Failure)
	require.Equal(t, lifecycle.FailureTimeout, o.Failure.Kind)
	require.Less(t, time.Since(begun), 20*time.Second)
	// CallTimeout bounds an incomplete body if the caller's context has no deadline.
	where = serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"type":"sync","meta`))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	client := newClient(t, incusos.Options{Timeout: 200 * time.Millisecond, CallTimeout: 300 * time.Millisecond})
	begun = time.Now()
	require.ErrorIs(t, client.Update(context.Background(), where), opscenter.ErrOutcomeUnknown)
	require.Less(t, time.Since(begun), 20*time.Second)
}

// Malformed and implausible times count as unknown. The rest of the observation counts.
func TestImplausibleTimes(t *testing.T) {
	answers := map[string]string{}
	identity, err := selfsigned.New("times")
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answers[r.URL.Path] == "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(`{"type":"sync","status":"Success","status_code":200,"metadata":` + answers[r.URL.Path] + `}`))
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
	web.StartTLS()
	defer web.Close()
	client := newClient(t, incusos.Options{})
	where := opscenter.Target{Name: "a", ID: "a", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf), Light: true}
	for _, uptime := range []string{`"NaN"`, `1e10`, `9.3e9`, `-1`, `"-5"`, `{}`} {
		for _, last := range []string{`"9999-12-31T23:59:59-23:59"`, `"0000-01-01T00:00:00+23:59"`, `"1800-01-01T00:00:00Z"`, `"soon"`, `5`} {
			answers["/os/1.0"] = `{"environment":{"os_name":"IncusOS","os_version":"202610010000","system_is_ready":true,"uptime":` + uptime + `}}`
			answers["/os/1.0/system/update"] = `{"config":{"channel":"stable"},"state":{"status":"Update check completed","last_check":` + last + `}}`
			o := probe(t, client, where)
			require.Nil(t, o.Failure)
			require.Zero(t, o.BootedAt, uptime)
			require.Equal(t, &lifecycle.UpdateStatus{Status: "Update check completed"}, o.UpdateStatus, last)
			require.Equal(t, "202610010000", o.Versions.OS.Version)
		}
	}
	// An application without a version counts as unread.
	answers["/os/1.0/applications"] = `["/os/1.0/applications/incus","/os/1.0/applications/debug"]`
	answers["/os/1.0/applications/incus"] = `{"state":{"is_primary":true,"version":"202610010000"}}`
	answers["/os/1.0/applications/debug"] = `{"state":{"is_primary":false}}`
	o := probe(t, client, where)
	require.NotZero(t, o.UnreadVersions&lifecycle.VersionsApplications)
	require.Len(t, o.Versions.Applications, 1)
}

// During an update, versions count only if they were read after the status of the update.
func TestVersionsAreReadAfterStatus(t *testing.T) {
	identity, err := selfsigned.New("again")
	require.NoError(t, err)
	asked := 0
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]string{"/os/1.0": `{"environment":{"os_name":"IncusOS","os_version":"202610010000","system_is_ready":true}}`,
			"/os/1.0/system/update": `{"config":{"channel":"stable"},"state":{"status":"Update check completed","needs_reboot":false}}`}[r.URL.Path]
		if r.URL.Path == "/os/1.0" {
			asked++
		}
		if answer == "" || asked == 2 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = w.Write([]byte(`{"type":"sync","status":"Success","status_code":200,"metadata":` + answer + `}`))
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
	web.StartTLS()
	defer web.Close()
	client := newClient(t, incusos.Options{})
	o := probe(t, client, opscenter.Target{Name: "a", ID: "a", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf), Light: true, Updating: true})
	require.Nil(t, o.Failure)
	require.NotNil(t, o.UpdateStatus)
	require.NotZero(t, o.UnreadVersions&lifecycle.VersionsOS)
}

// If the API of IncusOS is missing on an IncusOS server, its versions are unknown. It does not count as a plain Incus server.
func TestIncusOSAPIMissing(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity})
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultNotFound, Path: "/os/"}))
	o := probe(t, client, target(server))
	require.Nil(t, o.Failure)
	require.Nil(t, o.Versions, "known versions stay valid")
	require.Equal(t, lifecycle.TypeIncus, *o.Type)
	require.Contains(t, o.Unread[0], "GET /os/1.0")
}
