package httpapi_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

// TestBodyDeadlineEnds: the time for a body is over with the body. What is done then may take longer, and the connection
// serves what follows.
func TestBodyDeadlineEnds(t *testing.T) {
	const readTimeout = 50 * time.Millisecond
	p := start(t, func(o *httpapi.Options) {
		o.ReadTimeout = readTimeout
		o.Adopt = func(ctx context.Context, _ httpapi.Adopting) ([]string, error) {
			timer := time.NewTimer(6 * readTimeout)
			defer timer.Stop()
			select {
			case <-timer.C:
				return []string{"a"}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	})
	client := p.client(&p.operator)
	for range 2 {
		a := p.call(client, "POST", "/1.0/provisioning/servers/:adopt", `{"connection_url":"https://192.0.2.1:8443","trust_token":"x"}`)
		require.Equal(t, "sync", a.Type, a.Error)
		require.Equal(t, "sync", p.call(client, "GET", "/1.0/provisioning/servers", "").Type)
	}
}

// TestAfterAForwardedTimeout: a server's own API that does not answer in time ends that request alone.
func TestAfterAForwardedTimeout(t *testing.T) {
	const timeout = 200 * time.Millisecond
	p := startWith(t, func(p *plane, o *httpapi.Options) {
		client := incusos.New(incusos.Options{Certificate: &p.own})
		t.Cleanup(func() { client.Close() })
		o.Forward, o.ForwardTimeout = client, timeout
	})
	server, err := incusostest.New(incusostest.Options{Name: "slow", Standalone: true})
	require.NoError(t, err)
	t.Cleanup(server.Close)
	require.NoError(t, server.Register(t.Context(), incusostest.Provider{ServerURL: p.url, Token: p.token(1), Certificate: p.own.Leaf}))
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultHang}))
	client := p.client(&p.operator)
	for _, method := range []string{http.MethodGet, http.MethodPut} {
		body := map[string]string{http.MethodPut: `{"config":{}}`}[method]
		a := p.call(client, method, serversPath+"slow/os/1.0/system/kernel", body)
		require.Equal(t, "error", a.Type)
		for range 3 {
			require.Equal(t, "sync", p.call(client, "GET", "/1.0/provisioning/servers", "").Type, "after %s", method)
			require.Equal(t, "sync", p.call(client, "GET", "/1.0/provisioning/tokens", "").Type, "after %s", method)
		}
	}
}
