package updates_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// countingSource is an empty source that counts the reads of its index.
type countingSource struct{ times atomic.Int32 }

func (s *countingSource) Index(context.Context) (*updates.Index, error) {
	s.times.Add(1)
	return &updates.Index{}, nil
}

func (s *countingSource) Open(context.Context, *updates.Update, *updates.File, int64) (io.ReadCloser, int64, error) {
	return nil, 0, updates.ErrGone
}

// TestRunRefreshes: Run refreshes at once, about every hour, and on demand.
func TestRunRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		defer store.Close()
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		files, err := updates.NewDir(t.TempDir())
		require.NoError(t, err)
		source := &countingSource{}
		feed, err := updates.New(t.Context(), registry, files, updates.Options{Source: source, VerifyInterval: -1})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- feed.Run(ctx) }()
		synctest.Wait()
		require.EqualValues(t, 1, source.times.Load())
		require.ErrorIs(t, feed.Run(ctx), updates.ErrRunning)
		time.Sleep(53 * time.Minute)
		require.EqualValues(t, 1, source.times.Load())
		time.Sleep(14 * time.Minute)
		require.EqualValues(t, 2, source.times.Load())
		time.Sleep(24 * time.Hour)
		require.InDelta(t, 26, source.times.Load(), 2)
		before := source.times.Load()
		feed.RefreshSoon()
		synctest.Wait()
		require.Equal(t, before+1, source.times.Load())
		stop()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// TestStoppedRefreshResumes: a stopped refresh keeps its partial files, and the next one resumes them.
func TestStoppedRefreshResumes(t *testing.T) {
	p := newPlane(t)
	p.options.HTTP.StallTimeout = time.Hour
	p.restart(t)
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 100 << 10})
	p.publisher.SetFault("incus.raw.gz", incusostest.PublishStall)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.feed.Refresh(ctx, updates.RefreshOptions{}) }()
	require.Eventually(t, func() bool {
		for info, err := range p.files.Unfinished(t.Context()) {
			return err == nil && info.Size > 0
		}
		return false
	}, 10*time.Second, time.Millisecond)
	require.True(t, p.feed.Progress().Running)
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.False(t, p.feed.Progress().Running)
	require.Empty(t, p.warnings(t), "a stopped refresh raises no warning")
	p.publisher.SetFault("incus.raw.gz", "")
	before := p.publisher.Requests("202610010000/x86_64/incus.raw.gz")
	p.restart(t)
	p.refresh(t)
	require.Equal(t, before+1, p.publisher.Requests("202610010000/x86_64/incus.raw.gz"))
	require.Equal(t, []string{"202610010000"}, p.versions(updates.StatusReady))
}

// TestEventsOfUpdates: events record the changes of an update, and the principal of each.
func TestEventsOfUpdates(t *testing.T) {
	p := newPlane(t)
	p.publish(t, release(1))
	p.refresh(t)
	u := p.update(t, "202610010000")
	alice := opscenter.WithPrincipal(t.Context(), "alice")
	require.NoError(t, p.Channels().Create(t.Context(), "lab", ""))
	require.NoError(t, p.feed.SetChannels(alice, u.UUID, []string{"lab"}, updates.SetOptions{}))
	require.NoError(t, p.feed.Remove(alice, u.UUID))
	p.publish(t, release(2))
	p.publisher.SetFault("incus.raw.gz", incusostest.PublishGone)
	for range 3 {
		require.Error(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}))
	}
	var kinds []event.Kind
	reasons := ""
	events, err := p.ListEvents(t.Context(), opscenter.EventFilter{Limit: opscenter.MaxPageSize})
	require.NoError(t, err)
	for _, e := range events {
		kinds = append(kinds, e.Kind)
		reasons += e.Reason + "\n"
	}
	for _, kind := range []event.Kind{event.UpdateReady, event.UpdatePublished, event.ChannelCreated, event.UpdateChannels, event.UpdateRemoved} {
		require.True(t, slices.Contains(kinds, kind), "%s\n%s", kind, reasons)
	}
	count := func(kind event.Kind) (n int) {
		for _, k := range kinds {
			if k == kind {
				n++
			}
		}
		return n
	}
	require.Equal(t, 3, count(event.UpdateFetching), "two releases, and the first again after its removal:\n%s", reasons)
	require.Equal(t, 2, count(event.UpdateFailed), "one event for each release, not for each refresh:\n%s", reasons)
	require.Contains(t, reasons, "was put into lab, by alice")
	require.Contains(t, reasons, "channel stable offers nothing")
}

// TestRunVerifies: Run finds a damaged file by itself and fetches it again.
func TestRunVerifies(t *testing.T) {
	p := newPlane(t, func(p *plane) { p.options.Interval, p.options.VerifyInterval = -1, 50*time.Millisecond })
	p.publish(t, release(1))
	p.refresh(t)
	u := p.update(t, "202610010000")
	place := filepath.Join(p.dir, "files", u.Files[2].SHA256[:2], u.Files[2].SHA256)
	content, err := os.ReadFile(place)
	require.NoError(t, err)
	damaged := bytes.Clone(content)
	damaged[10]++
	require.NoError(t, os.WriteFile(place, damaged, 0o600))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.feed.Run(ctx) }()
	require.Eventually(t, func() bool {
		now, err := os.ReadFile(place)
		return err == nil && bytes.Equal(content, now) && len(p.versions(updates.StatusReady)) == 1
	}, 20*time.Second, 5*time.Millisecond)
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
}
