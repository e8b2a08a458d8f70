package poller_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opscenter-go/sdk/internal/cputime"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// concurrency of the polls, and of the bare loop that they are compared with.
const concurrency = 64

// bench is a registry with simulated servers.
type bench struct {
	registry *opscenter.Registry
	store    storage.Store
	identity tls.Certificate
	sims     *simulators
}

func benchIdentity(b *testing.B) tls.Certificate {
	identity, err := selfsigned.New("control plane")
	if err != nil {
		b.Fatal(err)
	}
	return identity
}

func benchStore(b *testing.B) storage.Store {
	store, err := badgerstore.Open(b.TempDir(), badgerstore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	return store
}

func (t *bench) register(b *testing.B) {
	token, err := t.registry.CreateToken(b.Context(), opscenter.TokenSpec{Uses: int64(len(t.sims.servers))})
	if err != nil {
		b.Fatal(err)
	}
	for i, s := range t.sims.servers {
		certificate, err := opscenter.ParseCertificate(s.Certificate)
		if err != nil {
			b.Fatal(err)
		}
		_, err = t.registry.Register(b.Context(), opscenter.Registration{Token: token.UUID, Certificate: certificate, Name: s.Name, ConnectionURL: s.URL, MachineID: fmt.Sprintf("%032x", i+1)})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// newBench registers the simulated servers in a registry on Badger.
func newBench(b *testing.B, sims *simulators, identity tls.Certificate) *bench {
	store := benchStore(b)
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	if err != nil {
		b.Fatal(err)
	}
	t := &bench{registry: registry, store: store, identity: identity, sims: sims}
	t.register(b)
	return t
}

// endless returns options that poll without a pause: a polled server is due again at once. With a factsInterval of a
// nanosecond, each poll reads the facts.
func endless(factsInterval time.Duration) poller.Options {
	return poller.Options{Interval: time.Millisecond, FactsInterval: factsInterval, Concurrency: concurrency, RetryInterval: 5 * time.Second, MaxLag: time.Hour}
}

// The requests of polls, beside that for the cluster member.
var (
	lightPaths = []string{"/os/1.0", "/os/1.0/system/update"}
	fullPaths  = append([]string{"/os/1.0/applications", "/os/1.0/applications/incus", "/os/1.0/system/resources", "/os/1.0/system/network", "/os/1.0/system/security", "/os/1.0/system/storage"}, lightPaths...)
)

// run runs a poller until stop is called.
func (t *bench) run(b *testing.B, client *incusos.Client, options poller.Options) (p *poller.Poller, stop func()) {
	p, err := poller.New(t.registry, client, options)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.Run(ctx)
	}()
	return p, func() { cancel(); <-ended }
}

func (t *bench) ready() int {
	for _, c := range t.registry.Counts() {
		if c.Status == lifecycle.StatusReady {
			return c.Count
		}
	}
	return 0
}

func waitFor(b *testing.B, limit time.Duration, done func() bool) time.Duration {
	b.Helper()
	begun := time.Now()
	for !done() {
		if time.Since(begun) > limit {
			b.Fatalf("the condition was not met within %s", limit)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(begun)
}

func rate(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }

// BenchmarkPolls polls simulated servers in another process of the same machine. An operation is
// a sweep: one poll of each server. The case "bare" is a loop over net/http. It sends the same
// requests over the same kind of connections, and discards the bodies. The case "x25519" leaves the
// post-quantum key exchange.
func BenchmarkPolls(b *testing.B) {
	identity := benchIdentity(b)
	for _, n := range []int{1000, 5000} {
		sims := startSimulators(b, n, opscenter.EncodeCertificate(identity.Leaf))
		for _, kind := range []struct {
			name string
			idle int
		}{{"resumed", 1}, {"kept", n}} {
			for _, facts := range []struct {
				name     string
				paths    []string
				interval time.Duration
			}{{"full", fullPaths, time.Nanosecond}, {"light", lightPaths, 24 * time.Hour}} {
				b.Run(fmt.Sprintf("servers=%d/%s/%s/bare", n, kind.name, facts.name), func(b *testing.B) { bareSweeps(b, sims, identity, kind.idle, facts.paths) })
				options := incusos.Options{Certificate: &identity, MaxIdleConns: kind.idle}
				b.Run(fmt.Sprintf("servers=%d/%s/%s/ours", n, kind.name, facts.name), func(b *testing.B) { pollerSweeps(b, sims, options, n, facts.interval) })
				options.CurvePreferences = []tls.CurveID{tls.X25519}
				if kind.idle == 1 { // else there are no handshakes
					b.Run(fmt.Sprintf("servers=%d/%s/%s/x25519", n, kind.name, facts.name), func(b *testing.B) { pollerSweeps(b, sims, options, n, facts.interval) })
				}
			}
		}
		b.Run(fmt.Sprintf("servers=%d/cold", n), func(b *testing.B) { coldSweep(b, sims, identity, n) })
		b.Run(fmt.Sprintf("servers=%d/silent", n), func(b *testing.B) { silentSweeps(b, sims, identity, n) })
		sims.stop()
	}
}

func pollerSweeps(b *testing.B, sims *simulators, options incusos.Options, n int, factsInterval time.Duration) {
	t := newBench(b, sims, *options.Certificate)
	client := incusos.New(options)
	defer client.Close()
	p, stop := t.run(b, client, endless(factsInterval))
	defer stop()
	settled := p.Stats().Unchanged
	waitFor(b, time.Minute*5, func() bool { return t.ready() == n && p.Stats().Unchanged > settled+int64(n) })
	full, before := client.Stats().FullHandshakes, stats(t.store)
	begun, used, sweeps := time.Now(), cputime.Used(b), 0
	for b.Loop() {
		polls := p.Stats().Polls
		waitFor(b, 5*time.Minute, func() bool { return p.Stats().Polls >= polls+int64(n) })
		sweeps++
	}
	b.ReportMetric(rate(n*sweeps, time.Since(begun)), "polls/s")
	b.ReportMetric(float64((cputime.Used(b)-used).Microseconds())/float64(n*sweeps), "cpu-µs/poll")
	b.ReportMetric(float64(client.Stats().FullHandshakes-full), "full-handshakes")
	b.ReportMetric(float64(stats(t.store).Commits-before.Commits)/float64(sweeps), "commits/op")
	b.ReportMetric(float64(stats(t.store).Written-before.Written)/float64(sweeps), "B-written/op")
}

// BenchmarkRegisterWhilePolling registers servers one after the other, without a poller and then beside one that polls at its full
// rate. It reports the time within which 99 % of them were done.
func BenchmarkRegisterWhilePolling(b *testing.B) {
	const n, each = 1000, 500
	identity := benchIdentity(b)
	sims := startSimulators(b, n, opscenter.EncodeCertificate(identity.Leaf))
	defer sims.stop()
	t := newBench(b, sims, identity)
	next := 0
	p99 := func() time.Duration {
		var took []time.Duration
		token, err := t.registry.CreateToken(b.Context(), opscenter.TokenSpec{Uses: each})
		if err != nil {
			b.Fatal(err)
		}
		for range each {
			next++
			certificate := &x509.Certificate{Raw: append(fmt.Appendf(nil, "%08d", next), identity.Leaf.Raw...), PublicKey: identity.Leaf.PublicKey}
			begun := time.Now()
			registered, err := t.registry.Register(b.Context(), opscenter.Registration{Token: token.UUID, Certificate: certificate, Name: fmt.Sprintf("new%06d", next),
				ConnectionURL: "https://127.0.0.1:1", MachineID: fmt.Sprintf("%032x", uint64(1)<<40+uint64(next))})
			took = append(took, time.Since(begun))
			if err == nil {
				err = t.registry.DeleteServer(b.Context(), registered.Name, true) // no poll is to wait for it
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		slices.Sort(took)
		return took[each*99/100]
	}
	client := incusos.New(incusos.Options{Certificate: &identity, MaxIdleConns: 1})
	defer client.Close()
	for b.Loop() {
		idle := p99()
		p, stop := t.run(b, client, endless(time.Nanosecond))
		waitFor(b, 5*time.Minute, func() bool { return t.ready() == n && p.Stats().Unchanged > int64(n) })
		busy := p99()
		stop()
		b.ReportMetric(float64(idle.Microseconds()), "µs-p99-idle")
		b.ReportMetric(float64(busy.Microseconds()), "µs-p99-polling")
		b.ReportMetric(float64(busy)/float64(idle), "ratio")
	}
}

func stats(s storage.Store) storage.Stats { return s.(storage.Measured).Stats() }

// coldSweep measures the first sweep: with full TLS handshakes, and every observation is new.
func coldSweep(b *testing.B, sims *simulators, identity tls.Certificate, n int) {
	for b.Loop() {
		b.StopTimer()
		t := newBench(b, sims, identity)
		client := incusos.New(incusos.Options{Certificate: &identity})
		b.StartTimer()
		_, stop := t.run(b, client, poller.Options{Concurrency: concurrency})
		waitFor(b, 5*time.Minute, func() bool { return t.ready() == n })
		b.StopTimer()
		stop()
		client.Close()
		b.StartTimer()
	}
	b.ReportMetric(rate(n*b.N, b.Elapsed()), "polls/s")
}

// silentSweeps measures sweeps while a tenth of the servers accept connections and stay silent.
func silentSweeps(b *testing.B, sims *simulators, identity tls.Certificate, n int) {
	t := newBench(b, sims, identity)
	client := incusos.New(incusos.Options{Certificate: &identity, MaxIdleConns: 1, Timeout: 2 * time.Second})
	defer client.Close()
	p, stop := t.run(b, client, endless(time.Nanosecond))
	defer stop()
	waitFor(b, 5*time.Minute, func() bool { return t.ready() == n && p.Stats().Unchanged > int64(2*n) })
	sweep := func(healthy int) time.Duration {
		from := p.Stats().Unchanged
		return waitFor(b, 5*time.Minute, func() bool { return p.Stats().Unchanged >= from+int64(healthy) })
	}
	all := sweep(n)
	sims.silence(n / 10)
	defer sims.silence(0)
	// The first sweep lasts until each silent server has failed.
	failed := p.Stats().Failed
	first := waitFor(b, 5*time.Minute, func() bool { return p.Stats().Failed >= failed+int64(n/10) })
	goroutines, files := 0, 0
	for b.Loop() {
		sweep(n * 9 / 10)
	}
	perSweep := time.Duration(float64(b.Elapsed()) / float64(b.N))
	goroutines, files = runtime.NumGoroutine(), openFiles()
	failed = p.Stats().Failed
	waitFor(b, 5*time.Minute, func() bool { return p.Stats().Failed >= failed+1000 })
	b.ReportMetric(all.Seconds(), "s-sweep-without")
	b.ReportMetric(first.Seconds(), "s-first-sweep")
	b.ReportMetric(rate(n*9/10, perSweep)/rate(n, all), "of-rate-without")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines), "goroutines-per-1000-failed")
	b.ReportMetric(float64(openFiles()-files), "files-per-1000-failed")
}

// BenchmarkSilentTenth compares sweeps over 1,000 servers with and without a tenth that has just fallen silent, at the
// default timeouts of the client (10 s) and of the poller (30 s). In the case "usual" the timeout follows the usual duration of
// a server's polls, in the case "fixed" it does not. A sweep ends when a poll of each server has ended: silent servers
// were cut or failed.
func BenchmarkSilentTenth(b *testing.B) {
	const n, silent = 1000, 100
	identity := benchIdentity(b)
	sims := startSimulators(b, n, opscenter.EncodeCertificate(identity.Leaf))
	for _, timeout := range []struct {
		name   string
		factor float64
	}{{"usual", 0}, {"fixed", -1}} {
		b.Run(timeout.name, func(b *testing.B) {
			t := newBench(b, sims, identity)
			client := incusos.New(incusos.Options{Certificate: &identity, MaxIdleConns: 1})
			defer client.Close()
			options := endless(24 * time.Hour) // most polls are light
			options.TimeoutFactor = timeout.factor
			p, stop := t.run(b, client, options)
			defer stop()
			defer sims.silence(0)
			var without, with time.Duration
			for b.Loop() {
				sims.silence(0) // closes connections, so some polls fail
				for before, settled := p.Stats(), false; !settled; before = p.Stats() {
					waitFor(b, 5*time.Minute, func() bool { return t.ready() == n && p.Stats().Unchanged > before.Unchanged+5*n })
					settled = p.Stats().Failed == before.Failed
				}
				before := p.Stats()
				without += waitFor(b, 5*time.Minute, func() bool { return p.Stats().Unchanged >= before.Unchanged+n })
				before = p.Stats()
				sims.silence(silent) // the first poll of a silent server is cut, or loses its connection
				with += waitFor(b, 5*time.Minute, func() bool {
					s := p.Stats()
					return s.Unchanged >= before.Unchanged+n-silent && s.Cut+s.Failed >= before.Cut+before.Failed+silent
				})
			}
			b.ReportMetric(without.Seconds()/float64(b.N), "s-without")
			b.ReportMetric(with.Seconds()/float64(b.N), "s-with-silent")
		})
	}
}

func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// bareSweeps sends the requests of polls in a bare loop.
func bareSweeps(b *testing.B, sims *simulators, identity tls.Certificate, idle int, paths []string) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{identity}, ClientSessionCache: tls.NewLRUClientSessionCache(len(sims.servers))},
		MaxIdleConns: idle, MaxIdleConnsPerHost: 1, DisableCompression: true}
	defer transport.CloseIdleConnections()
	sweep := func() {
		var next atomic.Int64
		var wait sync.WaitGroup
		for range concurrency {
			wait.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(sims.servers)); i = next.Add(1) - 1 {
					s := sims.servers[i]
					for k := range len(paths) + 1 {
						path := "/1.0/cluster/members/" + s.Name
						if k < len(paths) {
							path = paths[k]
						}
						req, err := http.NewRequest(http.MethodGet, s.URL+path, nil)
						if err != nil {
							b.Error(err)
							return
						}
						resp, err := transport.RoundTrip(req)
						if err != nil {
							b.Error(err)
							return
						}
						if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
							b.Error(resp.Status, err)
						}
						resp.Body.Close()
					}
				}
			})
		}
		wait.Wait()
	}
	sweep() // with full handshakes; later sweeps resume sessions
	begun, sweeps := time.Now(), 0
	for b.Loop() {
		sweep()
		sweeps++
	}
	b.ReportMetric(rate(len(sims.servers)*sweeps, time.Since(begun)), "polls/s")
}

// steady is a prober without sockets. It gives the same answer each time.
type steady struct {
	kind        lifecycle.ServerType
	maintenance lifecycle.MaintenanceState
	versions    lifecycle.Versions
	facts       *lifecycle.Facts
}

func (s *steady) Probe(_ context.Context, target opscenter.Target) lifecycle.Observation {
	return lifecycle.Observation{Server: target.Name, ID: target.ID, At: time.Now(), Ready: true, Presented: target.Fingerprint,
		Type: &s.kind, Maintenance: &s.maintenance, Versions: &s.versions, MemberName: &target.Name, Facts: s.facts}
}

// registerMany registers servers first to last.
func registerMany(b *testing.B, registry *opscenter.Registry, first, last int, url func(i int) string, served string) {
	made := benchIdentity(b)
	token, err := registry.CreateToken(b.Context(), opscenter.TokenSpec{Uses: opscenter.MaxTokenUses})
	if err != nil {
		b.Fatal(err)
	}
	var wait sync.WaitGroup
	var next atomic.Int64
	next.Store(int64(first) - 1)
	for range 64 {
		wait.Go(func() {
			for i := next.Add(1); i <= int64(last); i = next.Add(1) {
				// The raw bytes are the identity here. Signing a certificate for each server would take long.
				certificate := &x509.Certificate{Raw: append(fmt.Appendf(nil, "%08d", i), made.Leaf.Raw...), PublicKey: made.Leaf.PublicKey}
				_, err := registry.Register(b.Context(), opscenter.Registration{Token: token.UUID, Certificate: certificate, Name: fmt.Sprintf("server%06d", i),
					ConnectionURL: url(int(i)), MachineID: fmt.Sprintf("%032x", i)})
				if err == nil && served != "" {
					err = registry.AcceptCertificate(b.Context(), fmt.Sprintf("server%06d", i), served)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
}

// BenchmarkSweep polls 100,000 registered servers without sockets. It measures the cost of the
// schedule and the registry. An operation is one unchanged poll.
func BenchmarkSweep(b *testing.B) {
	const n = 100_000
	for _, backend := range []string{"memory", "badger"} {
		var store storage.Store = memstore.New()
		if backend == "badger" {
			store = benchStore(b)
		}
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		if err != nil {
			b.Fatal(err)
		}
		registerMany(b, registry, 1, n, func(i int) string { return fmt.Sprintf("https://10.%d.%d.%d:8443", i>>16, i>>8&0xff, i&0xff) }, "")
		for _, content := range []string{"light", "facts"} {
			b.Run(backend+"/"+content, func(b *testing.B) {
				prober := &steady{kind: lifecycle.TypeIncus, versions: lifecycle.Versions{OS: lifecycle.OSVersion{Name: "IncusOS", Version: "202610010000"},
					Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "202610010000", Primary: true}}}}
				if content == "facts" {
					prober.facts = &lifecycle.Facts{Hardware: incusostest.Hardware(1)}
				}
				t := &bench{registry: registry, store: store}
				options := endless(time.Nanosecond)
				p, err := poller.New(registry, prober, options)
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan struct{})
				go func() { defer close(ended); _ = p.Run(ctx) }()
				waitFor(b, 10*time.Minute, func() bool { return t.ready() == n && p.Stats().Unchanged > 2*n })
				var before, after runtime.MemStats
				stored := stats(store)
				runtime.ReadMemStats(&before)
				begun, from := time.Now(), p.Stats().Polls
				for b.Loop() {
					runtime.Gosched()
					for polls := p.Stats().Polls; p.Stats().Polls < polls+1000; {
						time.Sleep(100 * time.Microsecond)
					}
				}
				polls, took := p.Stats().Polls-from, time.Since(begun)
				runtime.ReadMemStats(&after)
				// The flush of last-seen times is part of the bytes that polls write.
				if err := registry.Observer().Flush(context.Background()); err != nil {
					b.Fatal(err)
				}
				per := func(v uint64) float64 { return float64(v) / float64(polls) }
				b.ReportMetric(float64(took.Microseconds())/float64(polls), "µs/poll")
				b.ReportMetric(per(after.Mallocs-before.Mallocs), "allocs/poll")
				b.ReportMetric(per(after.TotalAlloc-before.TotalAlloc), "B/poll")
				b.ReportMetric(float64(stats(store).Written-stored.Written), "B-written")
				b.ReportMetric(float64(stats(store).Commits-stored.Commits), "commits")
				b.ReportMetric(float64(polls), "polls")
				cancel()
				<-ended
			})
		}
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		b.Logf("%s: heap with %d servers and their poller: %d MiB, %d B per server", backend, n, stats.HeapAlloc>>20, stats.HeapAlloc/n)
		store.Close()
	}
}

// BenchmarkFleet polls 100,000 servers over real sockets, with the options that the README gives
// for 4 GB of memory. Each of 50 simulated servers in another process stands for 2,000. An
// operation is a sweep with resumed sessions.
func BenchmarkFleet(b *testing.B) {
	if os.Getenv("OPSCENTER_BENCH_FLEET") == "" {
		b.Skip("this benchmark takes 10 minutes: set OPSCENTER_BENCH_FLEET=1")
	}
	const n, sims = 100_000, 50
	identity := benchIdentity(b)
	served := startSimulators(b, sims, opscenter.EncodeCertificate(identity.Leaf))
	store := benchStore(b)
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for i, s := range served.servers {
		certificate, err := opscenter.ParseCertificate(s.Certificate)
		if err != nil {
			b.Fatal(err)
		}
		registerMany(b, registry, i*n/sims+1, (i+1)*n/sims, func(int) string { return s.URL }, opscenter.Fingerprint(certificate))
	}
	client := incusos.New(incusos.Options{Certificate: &identity, MaxSessions: n + n/10, MaxIdleConns: 64})
	defer client.Close()
	t := &bench{registry: registry, store: store}
	p, stop := t.run(b, client, endless(time.Nanosecond))
	defer stop()
	begun := time.Now()
	waitFor(b, 30*time.Minute, func() bool { return t.ready() == n })
	b.Logf("first sweep, with full handshakes and new facts: %s", time.Since(begun).Round(time.Second))
	full := client.Stats().FullHandshakes
	for b.Loop() {
		polls := p.Stats().Polls
		waitFor(b, 30*time.Minute, func() bool { return p.Stats().Polls >= polls+n })
	}
	b.ReportMetric(rate(n*b.N, b.Elapsed()), "polls/s")
	b.ReportMetric(float64(client.Stats().FullHandshakes-full), "full-handshakes")
	b.ReportMetric(float64(client.Stats().Sessions), "sessions")
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
			b.Log(strings.TrimSpace(line))
		}
	}
}
