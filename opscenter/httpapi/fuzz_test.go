package httpapi_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"maps"
	"net/http/httptest"
	"net/url"
	pathpkg "path"
	"runtime"
	"strings"
	"testing"

	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// fuzzed sends a request straight to the handler. The answer must be an envelope.
func fuzzed(t *testing.T, p *plane, method, path, body string, identity *tls.Certificate) {
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	r.URL.Path, r.URL.RawQuery, _ = strings.Cut(path, "?")
	if !strings.HasPrefix(r.URL.Path, "/") {
		r.URL.Path = "/" + r.URL.Path
	}
	r.TLS = &tls.ConnectionState{}
	r.TLS.PeerCertificates = append(r.TLS.PeerCertificates, identity.Leaf)
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	text, _ := io.ReadAll(w.Body)
	if w.Code >= 300 && w.Code < 400 {
		return // a path that is not clean
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil || (a.Type == "sync") != (w.Code < 300) {
		t.Fatalf("%s %q: status %d, %.200q", method, path, w.Code, text)
	}
	if w.Code == 500 {
		t.Fatalf("%s %q %q: an internal error for bad input: %s", method, path, body, p.log)
	}
}

func FuzzRegister(f *testing.F) {
	p := start(f, nil)
	identity := newCertificate(f, "server")
	f.Add(registration, p.token(1000))
	f.Add(`{"name":"a","connection_url":"https://a","properties":null}`, "x")
	f.Fuzz(func(t *testing.T, body, token string) {
		fuzzed(t, p, "POST", registerPath(token), body, &identity)
	})
}

func FuzzSelfUpdate(f *testing.F) {
	p := start(f, nil)
	identity := newCertificate(f, "server")
	fuzzRegister := httptest.NewRequest("POST", registerPath(p.token(1)), strings.NewReader(registration))
	fuzzRegister.TLS = &tls.ConnectionState{}
	fuzzRegister.TLS.PeerCertificates = append(fuzzRegister.TLS.PeerCertificates, identity.Leaf)
	p.handler.ServeHTTP(httptest.NewRecorder(), fuzzRegister)
	f.Add(`{"connection_url":"https://a:8443","cause":"system-is-ready"}`)
	f.Add(`{"cause":5}`)
	f.Fuzz(func(t *testing.T, body string) {
		fuzzed(t, p, "PUT", "/1.0/provisioning/servers/:self", body, &identity)
	})
}

func FuzzOperators(f *testing.F) {
	p := start(f, func(o *httpapi.Options) { o.FailuresPerMinute = -1 })
	f.Add("GET", "/1.0/provisioning/servers?recursion=1&limit=3", "")
	f.Add("PUT", "/1.0/provisioning/servers/a", `{"properties":{"a":1}}`)
	f.Add("POST", "/1.0/provisioning/tokens", `{"uses_remaining":3,"expire_at":"2030-01-01T00:00:00Z"}`)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		switch method {
		case "GET", "PUT", "POST", "DELETE", "PATCH":
			fuzzed(t, p, method, path, body, &p.operator)
		}
	})
}

// FuzzForwardedPath: no path below /os leads to another place on the server.
func FuzzForwardedPath(f *testing.F) {
	for _, path := range []string{"1.0/system/network", "..%2f..", "%2e%2e/1.0", "1.0//x", "a%00b", "%5c..", "1.0/applications/%C3%A4", "?x", "#x", "%3f"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, below string) {
		path, err := httpapi.PlainPath(below)
		if err != nil {
			return
		}
		u, err := url.Parse(path)
		if err != nil {
			return // it is refused
		}
		if u.Host != "" || u.Scheme != "" || u.User != nil || !strings.HasPrefix(u.Path+"/", "/os/") {
			t.Fatalf("%q leads to %q", below, u)
		}
		if clean := pathpkg.Clean(u.Path); clean != "/os" && !strings.HasPrefix(clean, "/os/") {
			t.Fatalf("%q leads to %q", below, clean)
		}
	})
}

// FuzzConfigMap reads properties. Accepted ones are text, and read the same again.
func FuzzConfigMap(f *testing.F) {
	f.Add([]byte(`{"a":"b","n":1,"t":true,"z":null}`))
	f.Add([]byte(`{"a":{}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := httpapi.ConfigMap(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := httpapi.ConfigMap(again); err != nil || !maps.Equal(out, second) {
			t.Fatalf("%q became %q (%v)", out, second, err)
		}
	})
}
