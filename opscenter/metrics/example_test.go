package metrics_test

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/metrics"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// The collector counts each poll when it ends, and reads the other figures at each scrape.
func Example() {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		panic(err)
	}
	client := incusos.New(incusos.Options{})
	defer client.Close()

	collector := metrics.New(metrics.Options{Registry: registry, Client: client})
	polls, err := poller.New(registry, client, poller.Options{OnPoll: collector.OnPoll})
	if err != nil {
		panic(err)
	}
	collector.Polls(polls)

	exported := prometheus.NewRegistry()
	exported.MustRegister(collector)
	http.Handle("GET /metrics", promhttp.HandlerFor(exported, promhttp.HandlerOpts{}))

	families, err := exported.Gather()
	fmt.Println(len(families) > 10, err)
	// Output: true <nil>
}
