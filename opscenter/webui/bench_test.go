package webui_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/cputime"
	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// announce adds servers that have not registered.
func announce(t testing.TB, w *pagetest.World, servers int) {
	t.Helper()
	for i := range servers {
		_, err := w.Registry.PreRegister(t.Context(), opscenter.PreRegistration{Name: fmt.Sprintf("rack%03d-server%05d", i/40, i)})
		require.NoError(t, err)
	}
}

// TestFleetPageIsSmall: the first page of 10,000 servers has at most 300 KB. The map comes over the stream.
func TestFleetPageIsSmall(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{})
	announce(t, w, 10_000)
	b := w.LoggedIn(access.RoleViewer)
	page := b.Get("/")
	require.Contains(t, page.Text, "10000 servers")
	size := len(page.Text)
	for _, name := range []string{"style.css", "app.js", "times.js", "map.js", "search.js", "morph.js", "icon.svg"} {
		size += len(b.Get("/static/" + name).Text)
	}
	require.Less(t, size, 300<<10)
	t.Logf("%d bytes with all files", size)
	_, data := stream(t, b, "/live?tiles=1").next()
	require.Equal(t, 10_000, strings.Count(data, "rack"))
	t.Logf("%d bytes of the map", len(data))
}

// BenchmarkFleetPage loads the first page of 10,000 servers on Badger over HTTPS: the first time, when the index of the fleet is made, and later. The
// limit is 200 ms.
func BenchmarkFleetPage(b *testing.B) {
	store, err := badgerstore.Open(b.TempDir(), badgerstore.Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })
	w := pagetest.Start(b, pagetest.Options{Store: store})
	announce(b, w, 10_000)
	browser := w.LoggedIn(access.RoleViewer)
	for _, name := range []string{"first", "later"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if name == "first" {
					w.WebUI.ForgetFleet()
				}
				browser.Get("/")
			}
		})
	}
}

// BenchmarkOpenPages changes a server of 1,000 five times a second, alone and while 200 fleet pages are open, which are loaded again as often as a
// browser does. The share is that of all processors which the open pages take, and so what they cost of the polls when these use all
// processors. The limit is 0.05.
func BenchmarkOpenPages(b *testing.B) {
	const servers, open, window = 1000, 200, 10 * time.Second
	w := pagetest.Start(b, pagetest.Options{MaxStreams: 2 * open, Interval: time.Hour})
	announce(b, w, servers)
	var names []string
	for info, err := range w.Registry.Servers(b.Context(), opscenter.ServerFilter{}) {
		require.NoError(b, err)
		names = append(names, info.Name)
	}
	controltest.Background(b, func(ctx context.Context) error {
		for i := 0; ; i++ {
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			err := w.Registry.EditServer(ctx, names[i%servers], func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
				spec.Properties = map[string]string{"changed": fmt.Sprint(i)}
				return nil
			})
			if err != nil && ctx.Err() == nil {
				b.Error(err)
			}
		}
	})
	measure := func() float64 { // the share of all processors that the process uses
		began, before := time.Now(), cputime.Used(b)
		time.Sleep(window)
		return (cputime.Used(b) - before).Seconds() / time.Since(began).Seconds() / float64(runtime.NumCPU())
	}
	var loads atomic.Int64
	for b.Loop() {
		alone := measure()
		var readers []func(context.Context) error
		browser := w.LoggedIn(access.RoleViewer)
		for i := range open {
			readers = append(readers, func(ctx context.Context) error {
				resp := browser.Open(ctx, "/live?tiles=1&topic=fleet&topic=attention&topic=warnings&topic=rollouts")
				defer resp.Body.Close()
				go func() {
					buffer := make([]byte, 64<<10)
					for {
						if _, err := resp.Body.Read(buffer); err != nil {
							return
						}
					}
				}()
				next := time.After(time.Duration(i) * 10 * time.Second / open) // as app.js: every ten seconds, not all at once
				for {
					select {
					case <-next:
						if page := browser.Get("/"); page.Status != http.StatusOK && ctx.Err() == nil {
							b.Error(page.Status)
						}
						loads.Add(1)
						next = time.After(10 * time.Second)
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			})
		}
		stop := controltest.Background(b, readers...)
		measure()
		together := measure()
		stop()
		b.ReportMetric(alone, "share-without")
		b.ReportMetric(together-alone, "share-of-pages")
	}
	b.ReportMetric(float64(loads.Load()), "loads")
}
