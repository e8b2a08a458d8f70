package controlplane_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sharedCertificate is that of all control planes here.
var sharedCertificate = sync.OnceValue(func() tls.Certificate {
	made, err := devcert.New("control plane", "127.0.0.1")
	if err != nil {
		panic(err)
	}
	return made
})

// plane is a control plane that serves.
type plane struct {
	*controlplane.ControlPlane
	t        *testing.T
	url      string
	listener net.Listener
	stop     context.CancelFunc
	ended    chan error
}

// serve starts a control plane. The test ends it.
func serveTest(t *testing.T, store storage.Store, options controlplane.Options) *plane {
	t.Helper()
	p := &plane{t: t, ended: make(chan error, 1)}
	cp, err := controlplane.New(store, sharedCertificate(), options)
	require.NoError(t, err)
	p.ControlPlane = cp
	p.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.url = "https://" + p.listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() { p.ended <- cp.Serve(ctx, p.listener) }()
	t.Cleanup(func() {
		stop()
		if err := cp.Close(); !errors.Is(err, storage.ErrClosed) { // which a test closes itself
			require.NoError(t, err)
		}
	})
	return p
}

// register has a simulated server register.
func (p *plane) register(name string) *incusostest.Server {
	p.t.Helper()
	token, err := p.Registry.CreateToken(p.t.Context(), opscenter.TokenSpec{Uses: 1})
	require.NoError(p.t, err)
	server, err := incusostest.New(incusostest.Options{Name: name})
	require.NoError(p.t, err)
	p.t.Cleanup(server.Close)
	require.NoError(p.t, server.Register(p.t.Context(), incusostest.Provider{ServerURL: p.url, Token: token.UUID, Certificate: sharedCertificate().Leaf}))
	return server
}

func (p *plane) until(name string, wanted func(*opscenter.ServerInfo) bool) *opscenter.ServerInfo {
	p.t.Helper()
	var info *opscenter.ServerInfo
	require.Eventually(p.t, func() bool {
		found, err := p.Registry.Server(p.t.Context(), name)
		info = found
		return err == nil && wanted(info)
	}, 20*time.Second, 5*time.Millisecond)
	return info
}

func ready(info *opscenter.ServerInfo) bool { return info.State.Status == lifecycle.StatusReady }

// client is one that pins the control plane's certificate, and may present one of its own.
func client(t *testing.T, own ...tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(sharedCertificate().Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: own}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// overUnix is a client of a Unix socket.
func overUnix(t *testing.T, path string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func status(t *testing.T, client *http.Client, url string) int {
	t.Helper()
	resp, err := client.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

const tokensPath = "/1.0/provisioning/tokens"

// TestServer: with the zero Options a server registers, is polled and ready, and operators are refused.
func TestServer(t *testing.T) {
	p := serveTest(t, memstore.New(), controlplane.Options{})
	server := p.register("server01")
	info := p.until("server01", ready)
	require.Equal(t, lifecycle.ServerType("incus"), info.State.Type)
	require.Equal(t, server.URL(), info.ConnectionURL)
	require.Equal(t, http.StatusOK, status(t, client(t), p.url+"/1.0"))
	require.Equal(t, http.StatusForbidden, status(t, client(t), p.url+tokensPath))
	require.Nil(t, p.Updates)
	require.Nil(t, p.Images)
	p.stop()
	require.NoError(t, <-p.ended)
	_, err := net.Dial("tcp", p.listener.Addr().String())
	require.Error(t, err, "it listens no more")
	p.rejects()
}

// rejects: a handler that outlives the control plane turns requests away.
func (p *plane) rejects() {
	p.t.Helper()
	w := httptest.NewRecorder()
	r, err := http.NewRequest(http.MethodGet, "https://control/1.0", nil)
	require.NoError(p.t, err)
	p.Handler().ServeHTTP(w, r)
	require.Equal(p.t, http.StatusServiceUnavailable, w.Code)
	var envelope struct {
		Type string `json:"type"`
		Code int    `json:"error_code"`
	}
	require.NoError(p.t, json.Unmarshal(w.Body.Bytes(), &envelope))
	require.Equal(p.t, "error", envelope.Type)
	require.Equal(p.t, http.StatusServiceUnavailable, envelope.Code)
}

// TestRunsOnce: a second run is refused, during the first and after it, and so is one after Close.
func TestRunsOnce(t *testing.T) {
	p := serveTest(t, memstore.New(), controlplane.Options{})
	p.register("server01") // it runs
	require.ErrorIs(t, p.Run(t.Context()), controlplane.ErrRunning)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, p.Serve(t.Context(), listener), controlplane.ErrRunning)
	_, err = listener.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, p.ListenAndServe(t.Context(), p.listener.Addr().String()), controlplane.ErrRunning)
	p.until("server01", ready) // the first is not disturbed
	require.NoError(t, p.Close())
	require.NoError(t, <-p.ended, "Close ends it")
	require.ErrorIs(t, p.Run(t.Context()), controlplane.ErrRunning)

	closed, err := controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{})
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	require.NoError(t, closed.Close())
	require.ErrorIs(t, closed.Run(t.Context()), controlplane.ErrClosed)
	require.ErrorIs(t, closed.ListenAndServe(t.Context(), "127.0.0.1:0"), controlplane.ErrClosed)
}

// TestContextThatHasEnded: it stops in order before it has begun, also at a deadline.
func TestContextThatHasEnded(t *testing.T) {
	for _, begin := range []func() (context.Context, context.CancelFunc){
		func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx, cancel
		},
		func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 20*time.Millisecond)
		},
	} {
		ctx, cancel := begin()
		defer cancel()
		cp, err := controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{})
		require.NoError(t, err)
		require.NoError(t, cp.ListenAndServe(ctx, "127.0.0.1:0"))
	}
}

// TestFailure: a part that fails ends the run with its error and its name.
func TestFailure(t *testing.T) {
	// The store is gone while it runs.
	store := memstore.New()
	p := serveTest(t, store, controlplane.Options{})
	p.register("server01")
	p.until("server01", ready)
	require.NoError(t, store.Close())
	err := <-p.ended
	require.ErrorIs(t, err, storage.ErrClosed)
	require.Contains(t, err.Error(), "inventory: ")
	_, err = net.Dial("tcp", p.listener.Addr().String())
	require.Error(t, err, "the endpoint has ended with it")

	// A part runs elsewhere.
	cp, err := controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	polls := make(chan error, 1)
	go func() {
		err := poller.ErrRunning
		for errors.Is(err, poller.ErrRunning) { // it may meet the look below
			err = cp.Poller.Run(ctx)
		}
		polls <- err
	}()
	ended, end := context.WithCancel(context.Background())
	end()
	require.Eventually(t, func() bool { return errors.Is(cp.Poller.Run(ended), poller.ErrRunning) }, 10*time.Second, time.Millisecond)
	err = cp.Run(context.Background())
	require.ErrorIs(t, err, poller.ErrRunning)
	require.ErrorContains(t, err, "poller: ")
	cancel()
	<-polls

	// The listener is none any more.
	cp, err = controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	err = cp.Serve(context.Background(), listener)
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorContains(t, err, "endpoint: ")

	// The address is taken: what was opened is closed.
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	cp, err = controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{Socket: filepath.Join(dir, "s")})
	require.NoError(t, err)
	require.ErrorContains(t, cp.ListenAndServe(context.Background(), taken.Addr().String()), "in use")
	require.NoFileExists(t, filepath.Join(dir, "s"))
}

// TestFlush: a stop, and a Close without a run, store when servers were last seen.
func TestFlush(t *testing.T) {
	store := memstore.New()
	seenAgain := func() time.Time {
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		info, err := registry.Server(t.Context(), "server01")
		require.NoError(t, err)
		return info.LastSeen
	}
	p := serveTest(t, store, controlplane.Options{Poller: poller.Options{Interval: 20 * time.Millisecond}})
	p.register("server01")
	first := p.until("server01", ready).LastSeen
	p.until("server01", func(info *opscenter.ServerInfo) bool { return info.LastSeen.After(first) }) // by a poll that stores nothing
	p.stop()
	require.NoError(t, <-p.ended)
	info, err := p.Registry.Server(t.Context(), "server01")
	require.NoError(t, err)
	require.WithinDuration(t, info.LastSeen, seenAgain(), time.Millisecond)

	cp, err := controlplane.New(store, sharedCertificate(), controlplane.Options{})
	require.NoError(t, err)
	o, err := cp.Poller.Poll(t.Context(), "server01")
	require.NoError(t, err)
	require.Nil(t, o.Failure)
	require.NotEqual(t, o.At.Round(time.Millisecond), seenAgain().Round(time.Millisecond), "so far it is in memory alone")
	require.NoError(t, cp.Close())
	require.WithinDuration(t, o.At, seenAgain(), time.Millisecond)
}

// TestRequestsUnderWay: a stop lets a request end by itself, then ends its context, and names one that does not end even so.
func TestRequestsUnderWay(t *testing.T) {
	entered := make(chan struct{})
	wait := make(chan func(*http.Request), 1)
	options := func() controlplane.Options {
		return controlplane.Options{DrainTimeout: time.Minute, HTTP: httpapi.Options{Authorize: func(r *http.Request) (access.Principal, error) {
			entered <- struct{}{}
			(<-wait)(r)
			return access.Principal{Name: "operator", Grant: access.Grant{Role: access.RoleAdmin}}, nil
		}}}
	}
	begin := func(o controlplane.Options) (*plane, chan int) {
		p := serveTest(t, memstore.New(), o)
		answer := make(chan int, 1)
		go func() {
			resp, err := client(t).Get(p.url + tokensPath)
			if err != nil {
				answer <- 0
				return
			}
			resp.Body.Close()
			answer <- resp.StatusCode
		}()
		<-entered
		p.stop()
		return p, answer
	}

	p, answer := begin(options())
	p.until503() // the stop is under way
	wait <- func(*http.Request) {}
	require.Equal(t, http.StatusOK, <-answer)
	require.NoError(t, <-p.ended)

	o := options()
	o.DrainTimeout = 20 * time.Millisecond
	p, answer = begin(o)
	wait <- func(r *http.Request) { <-r.Context().Done() }
	require.NoError(t, <-p.ended, "its context has ended")
	<-answer

	// So has that of one which comes through a server of the caller's.
	cp, err := controlplane.New(memstore.New(), sharedCertificate(), o)
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		r, _ := http.NewRequest(http.MethodGet, "https://control"+tokensPath, nil)
		cp.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}()
	<-entered
	var ended atomic.Bool
	wait <- func(r *http.Request) { <-r.Context().Done(); ended.Store(true) }
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, cp.Run(ctx))
	require.True(t, ended.Load(), "Run returns after it")
	<-served

	o.StopTimeout = 100 * time.Millisecond
	p, answer = begin(o)
	err = <-p.ended
	require.ErrorIs(t, err, controlplane.ErrStopTimeout)
	require.ErrorContains(t, err, "requests: ")
	require.NotContains(t, err.Error(), "poller")
	wait <- func(*http.Request) {}
	<-answer
}

// until503 waits until the stop turns requests away.
func (p *plane) until503() {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		w := httptest.NewRecorder()
		r, err := http.NewRequest(http.MethodGet, "https://control/", nil) // which asks no authorizer
		require.NoError(p.t, err)
		p.Handler().ServeHTTP(w, r)
		return w.Code == http.StatusServiceUnavailable
	}, 10*time.Second, time.Millisecond)
}

// TestOperators: those who can open the socket, those with a trusted certificate, and those of an authorizer use the API.
func TestOperators(t *testing.T) {
	alice, err := devcert.New("alice")
	require.NoError(t, err)
	mallory, err := devcert.New("mallory")
	require.NoError(t, err)
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	p := serveTest(t, memstore.New(), controlplane.Options{Trust: []*x509.Certificate{alice.Leaf}, Socket: path, HTTP: httpapi.Options{
		Authorize: func(r *http.Request) (access.Principal, error) {
			if r.Header.Get("User-Agent") == "bob" {
				return access.Principal{Name: "bob", Grant: access.Grant{Role: access.RoleAdmin}}, nil
			}
			return access.Principal{}, access.ErrUnauthenticated
		}}})
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.Equal(t, http.StatusOK, status(t, overUnix(t, path), "http://opscenter"+tokensPath))
	require.Equal(t, http.StatusOK, status(t, client(t, alice), p.url+tokensPath))
	require.Equal(t, http.StatusForbidden, status(t, client(t, mallory), p.url+tokensPath))
	require.Equal(t, http.StatusUnauthorized, status(t, client(t), p.url+tokensPath))
	r, err := http.NewRequest(http.MethodGet, p.url+tokensPath, nil)
	require.NoError(t, err)
	r.Header.Set("User-Agent", "bob")
	resp, err := client(t).Do(r)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)

	// Another Unix socket is no operators'.
	proxied, err := net.Listen("unix", filepath.Join(dir, "proxy"))
	require.NoError(t, err)
	other := httpapi.NewServer(p.Handler(), nil, nil)
	ended := make(chan error, 1)
	go func() { ended <- other.Serve(proxied) }()
	require.Equal(t, http.StatusUnauthorized, status(t, overUnix(t, filepath.Join(dir, "proxy")), "http://opscenter"+tokensPath))
	require.NoError(t, other.Close())
	<-ended

	// One that is in use, or no socket, is left.
	_, err = controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{Socket: path})
	require.ErrorContains(t, err, "socket "+path+" is in use")
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("kept"), 0o600))
	_, err = controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{Socket: file})
	require.ErrorContains(t, err, "is no socket")
	require.FileExists(t, file)
	require.Equal(t, http.StatusOK, status(t, overUnix(t, path), "http://opscenter"+tokensPath))
	p.stop()
	require.NoError(t, <-p.ended)
	require.NoFileExists(t, path)

	// One that an earlier run has left is removed.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	left.SetUnlinkOnClose(false)
	require.NoError(t, left.Close())
	cp, err := controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{Socket: path})
	require.NoError(t, err)
	require.NoError(t, cp.Close())
	require.NoFileExists(t, path)
}

// TestUpdates: with a directory there is a feed, with a URL there are images and factory resets, and all of it is given back.
func TestUpdates(t *testing.T) {
	dir := t.TempDir()
	o := controlplane.Options{URL: "https://control.example:7443/", UpdatesDir: dir, Updates: updates.Options{Owner: "in memory", Settings: &updates.Settings{}}}
	p := serveTest(t, memstore.New(), o)
	require.NotNil(t, p.Updates)
	require.NotNil(t, p.Images)
	require.DirExists(t, filepath.Join(dir, "images"))
	require.Equal(t, http.StatusOK, status(t, client(t), p.url+"/1.0/provisioning/updates"))
	_, err := controlplane.New(memstore.New(), sharedCertificate(), o)
	require.ErrorIs(t, err, updates.ErrInUse)
	require.ErrorContains(t, err, "UpdatesDir: ")
	p.stop()
	require.NoError(t, <-p.ended)

	// What New has opened before it fails is closed.
	bad := o
	bad.Socket = filepath.Join(dir, "not", "there")
	_, err = controlplane.New(memstore.New(), sharedCertificate(), bad)
	require.ErrorIs(t, err, os.ErrNotExist)
	o.URL = ""
	cp, err := controlplane.New(memstore.New(), sharedCertificate(), o)
	require.NoError(t, err)
	require.NotNil(t, cp.Updates)
	require.Nil(t, cp.Images, "without a URL")
	require.NoError(t, cp.Close())

	// Files of the caller's stay open.
	files, err := updates.NewDir(filepath.Join(dir, "own"))
	require.NoError(t, err)
	defer files.Close()
	cp, err = controlplane.New(memstore.New(), sharedCertificate(), controlplane.Options{URL: "https://control.example", Files: files,
		ImagesDir: filepath.Join(dir, "bases"), Updates: updates.Options{Settings: &updates.Settings{}}})
	require.NoError(t, err)
	require.NotNil(t, cp.Images)
	require.NoError(t, cp.Close())
	_, err = updates.NewDir(filepath.Join(dir, "own"))
	require.ErrorIs(t, err, updates.ErrInUse)
}

// TestClientCertificate: servers trust the certificate of Client, where there is one, and pin that of the endpoint.
func TestClientCertificate(t *testing.T) {
	own, err := devcert.New("client")
	require.NoError(t, err)
	own.Leaf = nil
	p := serveTest(t, memstore.New(), controlplane.Options{Client: incusos.Options{Certificate: &own}})
	p.register("server01")
	p.until("server01", ready)
}

func TestOptions(t *testing.T) {
	log, certificate := &audit.Log{}, sharedCertificate()
	for want, o := range map[string]controlplane.Options{
		"DrainTimeout is -1s":      {DrainTimeout: -time.Second},
		"StopTimeout is -1s":       {StopTimeout: -time.Second},
		"Interval is -1s":          {Poller: poller.Options{Interval: -time.Second}},
		"OfflineThreshold is -1":   {Registry: opscenter.Options{OfflineThreshold: -1}},
		"Systems.Audit is set":     {Systems: system.Options{Audit: log}},
		"HTTP.Audit is set":        {HTTP: httpapi.Options{Audit: log}},
		"Rollouts.Poller is set":   {Rollouts: rollout.Options{Poller: &poller.Poller{}}},
		"UpdatesDir and Files are": {UpdatesDir: "x", Files: &updates.Dir{}},
		"https is wanted":          {URL: "http://x"},
		"must have no path":        {URL: "https://x/y"},
		"user or a password":       {URL: "https://a:b@x"},
		"certificate of Client":    {Client: incusos.Options{Certificate: &tls.Certificate{}}},
	} {
		_, err := controlplane.New(memstore.New(), certificate, o)
		require.ErrorContains(t, err, want)
		if !strings.Contains(want, "https") && !strings.Contains(want, "path") && !strings.Contains(want, "password") {
			require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
		} else {
			require.ErrorIs(t, err, opscenter.ErrInvalidURL)
		}
	}
	for _, bad := range []tls.Certificate{{}, {Certificate: certificate.Certificate}, {Certificate: [][]byte{[]byte("garbage")}, PrivateKey: certificate.PrivateKey}} {
		_, err := controlplane.New(memstore.New(), bad, controlplane.Options{})
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
		require.ErrorContains(t, err, "the certificate")
	}
}

// TestReadme: the first program in README is serve.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	_, body, found := strings.Cut(string(source), "func serve(ctx context.Context, address string) error {\n")
	require.True(t, found)
	body, _, _ = strings.Cut(body, "\n}\n")
	_, shown, found := strings.Cut(string(readme), "```go\n")
	require.True(t, found)
	shown, _, _ = strings.Cut(shown, "```")
	require.Equal(t, strings.ReplaceAll("\n"+body, "\n\t", "\n")[1:]+"\n", strings.ReplaceAll(shown, `":7443"`, "address"))
}
