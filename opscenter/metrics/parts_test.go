package metrics_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/metrics"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// TestParts: rollouts, the inventory and the update feed of a control plane show.
func TestParts(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Members: 3, Single: 1})
	w.ReadInventory(4)
	collector := metrics.New(metrics.Options{Registry: w.Registry})
	collector.Rollouts(w.Rollouts)
	collector.Inventory(w.Inventory)
	collector.Updates(w.Updates)
	reg := prometheus.NewPedanticRegistry()
	fatal(t, reg.Register(collector))
	if problems, err := testutil.CollectAndLint(collector); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	until(t, reg, `opscenter_rollouts{status="paused"} 0`, `opscenter_updates{status="ready"} 2`, `opscenter_feed_problems 0`, "opscenter_feed_refreshed_timestamp_seconds",
		`opscenter_inventory_units{state="following"} 2`, "opscenter_inventory_oldest_scan_timestamp_seconds", "opscenter_scrape_failures_total 0")
	started, err := w.Rollouts.Start(t.Context(), rolling.Selector{Clusters: []string{"c1"}}, rolling.Policy{})
	fatal(t, err)
	fatal(t, w.Rollouts.Pause(t.Context(), started.ID, "a test"))
	until(t, reg, `opscenter_rollouts{status="paused"} 1`, `opscenter_rollout_steps{state="left"}`, "opscenter_rollout_units_failed 0")
	fatal(t, w.Rollouts.Cancel(t.Context(), started.ID, rolling.CancelStop))
	until(t, reg, `opscenter_rollouts{status="paused"} 0`, `opscenter_rollouts{status="running"} 0`, `opscenter_rollouts{status="cancelling"} 0`)
	w.Stop()
	until(t, reg, "opscenter_scrape_failures_total")
}

// until scrapes until all lines are there.
func until(t *testing.T, reg *prometheus.Registry, lines ...string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, missing := scrape(t, reg), ""
		for _, line := range lines {
			if !strings.Contains(text, line) {
				missing = line
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is missing in\n%s", missing, text)
		}
	}
}

// TestHTTP: requests count by method and status, also those that are cut. Streams do not count as slow requests.
func TestHTTP(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{})
	collector := metrics.New(metrics.Options{Registry: w.Registry})
	reg := prometheus.NewPedanticRegistry()
	fatal(t, reg.Register(collector))
	server := httptest.NewServer(collector.HTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			http.NotFound(w, r)
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/stream":
			w.Header().Set("Content-Type", "text/event-stream")
			fatal(t, http.NewResponseController(w).Flush()) // the writer is still one that can
		}
	})))
	t.Cleanup(server.Close)
	for _, path := range []string{"/", "/none", "/cut", "/stream"} {
		resp, err := http.Get(server.URL + path)
		if err == nil {
			resp.Body.Close()
		} else if path != "/cut" {
			t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), "MADEUP", server.URL, nil)
	fatal(t, err)
	resp, err := http.DefaultClient.Do(r)
	fatal(t, err)
	resp.Body.Close()
	until(t, reg, `opscenter_http_requests_total{code="200",method="GET"} 2`, `opscenter_http_requests_total{code="404",method="GET"} 1`, `opscenter_http_requests_total{code="cut",method="GET"}`,
		`opscenter_http_requests_total{code="200",method="other"} 1`, "opscenter_http_requests_running 0", "opscenter_http_request_duration_seconds_count")
	// The endpoint works behind it.
	endpoint := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, "/1.0", nil)
	request.Header.Set("Authorization", "Bearer "+w.AccessToken("metrics", access.Grant{Role: access.RoleViewer}))
	collector.HTTP(w.Handler()).ServeHTTP(endpoint, request)
	if endpoint.Code != http.StatusOK || !strings.Contains(endpoint.Body.String(), "viewer") {
		t.Fatal(endpoint.Body)
	}
}
