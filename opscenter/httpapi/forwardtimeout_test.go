package httpapi_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

// TestAfterAForwardedTimeout: if a server's own API does not answer in time, other requests of the connection go on.
func TestAfterAForwardedTimeout(t *testing.T) {
	const timeout = 200 * time.Millisecond
	p := startWith(t, func(p *plane, o *httpapi.Options) {
		client := controltest.Client(t, incusos.Options{Certificate: &p.own})
		o.Forward, o.ForwardTimeout = client, timeout
	})
	server := p.boot(incusostest.Options{Name: "slow", Standalone: true})
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
