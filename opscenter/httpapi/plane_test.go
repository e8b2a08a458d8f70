package httpapi_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

// plane is a control plane's endpoint over real TLS.
type plane struct {
	t        testing.TB
	registry *opscenter.Registry
	store    *spied
	handler  *httpapi.Handler
	url      string
	own      tls.Certificate // server and client certificate of the control plane
	operator tls.Certificate
	log      *controltest.Log
}

func newCertificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	made, err := selfsigned.New(name, "127.0.0.1")
	require.NoError(t, err)
	return made
}

func start(t testing.TB, change func(*httpapi.Options)) *plane {
	t.Helper()
	return startWith(t, func(_ *plane, o *httpapi.Options) {
		if change != nil {
			change(o)
		}
	})
}

func startWith(t testing.TB, change func(*plane, *httpapi.Options)) *plane {
	t.Helper()
	p := &plane{t: t, own: newCertificate(t, "control plane"), operator: newCertificate(t, "operator"), log: &controltest.Log{}}
	logger := slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p.store = &spied{Store: storetest.Twice(memstore.New(memstore.Options{DetectMutation: true})), tables: map[string]*storage.TableSchema{}}
	var err error
	p.registry, err = opscenter.NewRegistry(p.store, opscenter.Options{Logger: logger})
	require.NoError(t, err)
	options := httpapi.Options{ClientCertificate: p.own.Leaf, Logger: logger, FailuresPerMinute: -1,
		Authorize: httpapi.AnyOf(httpapi.TrustCertificates(p.operator.Leaf), httpapi.TrustUnixSocket())}
	listener, url := controltest.Listen(t)
	p.url = url
	change(p, &options)
	p.handler, err = httpapi.New(p.registry, options)
	require.NoError(t, err)
	controltest.Serve(t, listener, p.handler, p.own, logger)
	return p
}

// client returns a client with a certificate, or with none, that accepts the control plane alone.
func (p *plane) client(certificate *tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(p.own.Leaf)
	config := &tls.Config{RootCAs: roots}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	transport := &http.Transport{TLSClientConfig: config}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// answer is an envelope with its HTTP response.
type answer struct {
	Type       string          `json:"type"`
	Status     string          `json:"status"`
	StatusCode int             `json:"status_code"`
	ErrorCode  int             `json:"error_code"`
	Error      string          `json:"error"`
	Metadata   json.RawMessage `json:"metadata"`
	NextCursor string          `json:"next_cursor"`
	http       *http.Response
	text       string
}

func (p *plane) call(client *http.Client, method, path, body string, header ...string) *answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	require.NoError(p.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	a := &answer{http: resp, text: string(text)}
	require.NoError(p.t, json.Unmarshal(text, a), "%s %s: %.300s", method, path, text)
	require.Equal(p.t, "application/json", resp.Header.Get("Content-Type"))
	switch a.Type {
	case "sync":
		require.Equal(p.t, 200, a.StatusCode, "a client goes by the body")
		require.Equal(p.t, "Success", a.Status)
	case "error":
		require.Equal(p.t, resp.StatusCode, a.ErrorCode)
		require.NotEmpty(p.t, a.Error)
		require.JSONEq(p.t, "null", string(a.Metadata))
	default:
		p.t.Fatalf("type %q", a.Type)
	}
	describedBy(p.t, p.handler).check(p.t, method, req.URL.Path, resp.StatusCode, text)
	return a
}

// send is call for answers of any form.
func (p *plane) send(client *http.Client, method, path, body string) (int, string) {
	p.t.Helper()
	code, text, err := p.try(client, method, path, body)
	require.NoError(p.t, err)
	return code, text
}

// try is send for answers that may be cut off.
func (p *plane) try(client *http.Client, method, path, body string) (int, string, error) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	require.NoError(p.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func (a *answer) decode(t testing.TB, into any) {
	t.Helper()
	require.Equal(t, "sync", a.Type, a.text)
	require.NoError(t, json.Unmarshal(a.Metadata, into))
}

func (p *plane) token(uses int64) string {
	token, err := p.registry.CreateToken(p.t.Context(), opscenter.TokenSpec{Uses: uses})
	require.NoError(p.t, err)
	return token.UUID
}

// boot starts a simulated server that registers.
func (p *plane) boot(options incusostest.Options) *incusostest.Server {
	p.t.Helper()
	server := controltest.Server(p.t, options)
	require.NoError(p.t, server.Register(p.t.Context(), incusostest.Provider{ServerURL: p.url, Token: p.token(1), Certificate: p.own.Leaf}))
	return server
}

const selfPath = "/1.0/provisioning/servers/:self"

func registerPath(token string) string {
	return "/1.0/provisioning/servers?token=" + url.QueryEscape(token)
}

const registration = `{"name":"server01","connection_url":"https://10.0.0.1:8443","machine_id":"af94e64e199341b68f10a8eebb828fce","system_uuid":"af94e64e-1993-41b6-8f10-a8eebb828fce",
	"properties":{"arch":"x86_64","n":5,"b":true},"bmc_config":{"password":"hunter2"},"from_a_newer_release":{"x":[1]}}`

// operatorRoutes are the patterns of the routes for principals of a role, but for that which all methods share, and that which servers share.
func operatorRoutes(h *httpapi.Handler) (out []string) {
	for _, route := range h.Routes() {
		if route.Role != "" && route.Method != "" && route.Method+" "+route.Path != "POST /1.0/provisioning/servers" {
			out = append(out, route.Method+" "+route.Path)
		}
	}
	return out
}
