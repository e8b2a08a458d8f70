package metrics_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/metrics"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// fatal ends the test if there is an error.
func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scrape returns the text that Prometheus would receive.
func scrape(t testing.TB, registry *prometheus.Registry) string {
	t.Helper()
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	text, err := io.ReadAll(answer.Result().Body)
	fatal(t, err)
	if answer.Code != 200 {
		t.Fatalf("%d: %s", answer.Code, text)
	}
	return string(text)
}

// The collector exports the metrics of a poller with two simulated servers, one of which is down.
func TestCollector(t *testing.T) {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	fatal(t, err)
	up, err := incusostest.New(incusostest.Options{Name: "up"})
	fatal(t, err)
	t.Cleanup(up.Close)
	down, err := incusostest.New(incusostest.Options{Name: "down"})
	fatal(t, err)
	t.Cleanup(down.Close)
	certificate, err := selfsigned.New("control plane")
	fatal(t, err)
	up.Trust(certificate.Leaf)
	fatal(t, down.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
	client := incusos.New(incusos.Options{Certificate: &certificate})
	t.Cleanup(func() { client.Close() })

	collector := metrics.New(metrics.Options{Registry: registry, Client: client})
	polls, err := poller.New(registry, client, poller.Options{OnPoll: collector.OnPoll, FastInterval: 20 * time.Millisecond, RetryInterval: 20 * time.Millisecond})
	fatal(t, err)
	collector.Polls(polls)
	reg := prometheus.NewPedanticRegistry()
	fatal(t, reg.Register(collector))
	if problems, err := testutil.CollectAndLint(collector); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- polls.Run(ctx) }()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 2})
	fatal(t, err)
	for _, s := range []*incusostest.Server{up, down} {
		_, err := registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: s.Certificate(), Name: s.Name(), ConnectionURL: s.URL(), MachineID: s.MachineID()})
		fatal(t, err)
	}
	want := []string{`opscenter_servers{detail="",status="ready",type="incus"} 1`, `opscenter_servers{detail="unresponsive",status="offline",type="unknown"} 1`,
		`opscenter_warnings{type="Server unreachable"} 1`, `opscenter_polls_total{outcome="answered"}`, `opscenter_polls_total{outcome="connect"}`,
		`opscenter_tls_handshakes_total{kind="full"} 1`, `opscenter_connections_open 1`, `opscenter_fleet_unreachable 0`, `opscenter_polled_servers 2`,
		`opscenter_store_watchers 1`, `opscenter_poll_duration_seconds_count`, `opscenter_poll_lag_seconds`, `opscenter_store_commits_total`, `opscenter_store_watch_lag_revisions`}
	deadline := time.Now().Add(20 * time.Second)
	for {
		text := scrape(t, reg)
		missing := ""
		for _, line := range want {
			if !strings.Contains(text, line) {
				missing = line
			}
		}
		if missing == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is missing in\n%s", missing, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	<-ended
}

// names are the names of all metrics.
func names(t *testing.T) (known map[string]bool) {
	t.Helper()
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	fatal(t, err)
	known = map[string]bool{}
	descriptions := make(chan *prometheus.Desc, 100)
	metrics.New(metrics.Options{Registry: registry}).Describe(descriptions)
	close(descriptions)
	for d := range descriptions {
		known[name.FindString(d.String())] = true
	}
	return known
}

var name = regexp.MustCompile(`opscenter_[a-z_]+`)

// TestFiles: all metrics that README, the alerts and the dashboard name exist, and the dashboard shows all kinds.
func TestFiles(t *testing.T) {
	known := names(t)
	for file, least := range map[string]int{"../../README.md": 3, "alerts.yaml": 8, "dashboard.json": 15} {
		text, err := os.ReadFile(file)
		fatal(t, err)
		named := map[string]bool{}
		for _, found := range name.FindAllString(string(text), -1) {
			found = strings.TrimSuffix(found, "_bucket") // of a histogram
			named[found] = true
			if !known[found] {
				t.Errorf("%s names %s, which does not exist", file, found)
			}
		}
		if len(named) < least {
			t.Errorf("%s names only %d metrics", file, len(named))
		}
	}
	var dashboard struct {
		Panels []struct {
			Title, Description string
			Targets            []struct{ Expr string }
		}
	}
	text, err := os.ReadFile("dashboard.json")
	fatal(t, err)
	fatal(t, json.Unmarshal(text, &dashboard))
	for _, p := range dashboard.Panels {
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("a panel lacks its title, description or targets: %+v", p)
		}
	}
}
