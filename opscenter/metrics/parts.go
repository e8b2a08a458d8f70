package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// maxRollouts is the number of the newest rollouts that a scrape reads. Older ones are over.
const maxRollouts = 100

// scrapeTimeout bounds the time in which a scrape reads.
const scrapeTimeout = 5 * time.Second

// Rollouts adds the metrics of rollouts: a scrape reads the newest hundred out of the store. A later call replaces the manager.
func (c *Collector) Rollouts(m *rollout.Manager) { c.rollouts.Store(m) }

// Inventory adds the metrics of the inventory. A later call replaces the manager.
func (c *Collector) Inventory(m *inventory.Manager) { c.inventory.Store(m) }

// Updates adds the metrics of the update feed. A later call replaces the manager.
func (c *Collector) Updates(m *updates.Manager) { c.updates.Store(m) }

var (
	rolloutsBy  = describe("rollouts", "Rollouts that are not over, by status.", "status")
	unitsFailed = describe("rollout_units_failed", "Clusters and single servers that failed in rollouts that are not over.")
	steps       = describe("rollout_steps", "Steps of rollouts that are not over: done, and left.", "state")

	units      = describe("inventory_units", "Clusters and single servers of the inventory: following events, scanned only, or failing.", "state")
	objects    = describe("inventory_pending_objects", "Objects that wait to be read.")
	oldestScan = describe("inventory_oldest_scan_timestamp_seconds", "Time of the complete scan that is the longest ago, of all clusters and single servers that were scanned.")

	releases  = describe("updates", "Releases of the feed by status.", "status")
	refresh   = describe("feed_refresh_running", "1 while a refresh of the feed runs.")
	refreshed = describe("feed_refreshed_timestamp_seconds", "Time at which the last refresh of the feed ended.")
	problems  = describe("feed_problems", "Problems of the last refresh of the feed.")
	fetched   = describe("feed_fetch_bytes", "Bytes of the files that a refresh fetches: done, and left.", "state")

	scrapeFailures = describe("scrape_failures_total", "Scrapes that could not read rollouts or the inventory.")
)

// partDescriptions are those of the parts.
var partDescriptions = []*prometheus.Desc{rolloutsBy, unitsFailed, steps, units, objects, oldestScan, releases, refresh, refreshed, problems, fetched, scrapeFailures}

// sample emits one value.
type sample func(d *prometheus.Desc, v float64, labels ...string)

// collectParts emits the metrics of the parts that were added.
func (c *Collector) collectParts(gauge, counter sample) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	if m := c.rollouts.Load(); m != nil {
		if page, err := m.List(ctx, "", maxRollouts); err == nil {
			collectRollouts(page.Rollouts, gauge)
		} else {
			c.failures.Add(1)
		}
	}
	if m := c.inventory.Load(); m != nil {
		if list, err := m.Status(ctx); err == nil {
			collectInventory(list, gauge)
		} else {
			c.failures.Add(1)
		}
	}
	if m := c.updates.Load(); m != nil {
		collectUpdates(m.Snapshot().Updates(), m.Progress(), gauge)
	}
	counter(scrapeFailures, float64(c.failures.Load()))
}

func collectRollouts(list []*rollout.Rollout, gauge sample) {
	by := map[rolling.Status]int{rolling.StatusStarting: 0, rolling.StatusRunning: 0, rolling.StatusPaused: 0, rolling.StatusCancelling: 0}
	failed, done, left := 0, 0, 0
	for _, r := range list {
		if s := &r.State; !s.Status.Ended() {
			by[s.Status]++
			failed += s.Failed
			done += s.StepsDone
			left += max(s.Steps-s.StepsDone, 0)
		}
	}
	for status, n := range by {
		gauge(rolloutsBy, float64(n), string(status))
	}
	gauge(unitsFailed, float64(failed))
	gauge(steps, float64(done), "done")
	gauge(steps, float64(left), "left")
}

func collectInventory(list []inventory.Status, gauge sample) {
	by := map[string]int{"following": 0, "scanned": 0, "failing": 0}
	pending := 0
	var oldest time.Time
	for i := range list {
		s := &list[i]
		switch {
		case s.Failure != "":
			by["failing"]++
		case s.Following:
			by["following"]++
		default:
			by["scanned"]++
		}
		pending += s.Pending
		if !s.ScannedAt.IsZero() && (oldest.IsZero() || s.ScannedAt.Before(oldest)) {
			oldest = s.ScannedAt
		}
	}
	for state, n := range by {
		gauge(units, float64(n), state)
	}
	gauge(objects, float64(pending))
	if !oldest.IsZero() {
		gauge(oldestScan, float64(oldest.Unix()))
	}
}

func collectUpdates(list []*updates.Update, p updates.Progress, gauge sample) {
	by := map[updates.Status]int{updates.StatusPending: 0, updates.StatusReady: 0}
	for _, u := range list {
		by[u.Status]++
	}
	for status, n := range by {
		gauge(releases, float64(n), string(status))
	}
	running := 0.0
	if p.Running {
		running = 1
	}
	gauge(refresh, running)
	if !p.Ended.IsZero() {
		gauge(refreshed, float64(p.Ended.Unix()))
	}
	gauge(problems, float64(len(p.Problems)))
	gauge(fetched, float64(p.BytesDone), "done")
	gauge(fetched, float64(max(p.Bytes-p.BytesDone, 0)), "left")
}
