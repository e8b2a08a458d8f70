package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// methods are the labels of methods. Another method counts as "other": a client could make up any number.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// requests are the metrics of requests to the control plane.
type requests struct {
	total    *prometheus.CounterVec
	duration prometheus.Histogram
	running  prometheus.Gauge
}

func newRequests() requests {
	return requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "opscenter_http_requests_total", Help: "Requests to the endpoint by method and status. Streams count when they end."}, []string{"method", "code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "opscenter_http_request_duration_seconds",
			Help: "Duration of requests to the endpoint, without streams.", Buckets: DefaultBuckets}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "opscenter_http_requests_running", Help: "Requests that are being answered, including open streams."}),
	}
}

func (r *requests) collectors() []prometheus.Collector {
	return []prometheus.Collector{r.total, r.duration, r.running}
}

// HTTP counts the requests to a handler, as to controlplane.ControlPlane.Handler.
func (c *Collector) HTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.requests.running.Inc()
		began := time.Now()
		counted := &countedWriter{ResponseWriter: w}
		ended := false
		defer func() { // a handler that cuts the connection panics
			c.requests.running.Dec()
			method := r.Method
			if !slices.Contains(methods, method) {
				method = "other"
			}
			code := "cut"
			if ended {
				code = strconv.Itoa(max(counted.status, http.StatusOK))
			}
			c.requests.total.WithLabelValues(method, code).Inc()
			if media := w.Header().Get("Content-Type"); !strings.HasPrefix(media, "text/event-stream") && !strings.HasPrefix(media, "application/x-ndjson") {
				c.requests.duration.Observe(time.Since(began).Seconds())
			}
		}()
		next.ServeHTTP(counted, r)
		ended = true
	})
}

// countedWriter notes the status of an answer.
type countedWriter struct {
	http.ResponseWriter
	status int
}

func (w *countedWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
