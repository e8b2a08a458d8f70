package opscenter_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

// world is a registry over a store, and what it logged.
type world struct {
	*opscenter.Registry
	store storage.Store
	log   *controltest.Log
}

// onBoth runs a test over both backends. In memory, rows modified by a careless reader are
// detected, and every transaction is run twice.
func onBoth(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) {
		test(t, newWorld(t, storetest.Twice(memstore.New(memstore.Options{DetectMutation: true})), opscenter.Options{}))
	})
	t.Run("badger", func(t *testing.T) {
		store, err := badgerstore.Open(t.TempDir())
		require.NoError(t, err)
		test(t, newWorld(t, store, opscenter.Options{}))
	})
}

func newWorld(t testing.TB, store storage.Store, options opscenter.Options) *world {
	t.Helper()
	w := &world{store: store, log: &controltest.Log{}}
	options.Logger = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	w.Registry, err = opscenter.NewRegistry(store, options)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, w.Close())
		require.NoError(t, store.Close())
	})
	return w
}

func memoryWorld(t testing.TB) *world {
	return newWorld(t, memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{})
}

var (
	certificatesMu sync.Mutex
	certificates   []*x509.Certificate
)

// certificate returns the n-th of a number of certificates that all tests share.
func certificate(n int) *x509.Certificate {
	certificatesMu.Lock()
	defer certificatesMu.Unlock()
	for len(certificates) <= n {
		made, err := selfsigned.New(fmt.Sprint("test ", len(certificates)))
		if err != nil {
			panic(err)
		}
		certificates = append(certificates, made.Leaf)
	}
	return certificates[n]
}

func machineID(n int) string  { return fmt.Sprintf("%032x", 0xabc000+n) }
func systemUUID(n int) string { return fmt.Sprintf("4c4c4544-0042-3510-8057-%012x", n) }

// registration of the n-th server.
func registration(n int, token string) opscenter.Registration {
	return opscenter.Registration{Token: token, Certificate: certificate(n), Name: fmt.Sprintf("server%02d", n),
		ConnectionURL: fmt.Sprintf("https://10.0.0.%d:8443", n+1), MachineID: machineID(n), SystemUUID: systemUUID(n), RemoteAddr: "10.0.0.1:1234"}
}

func (w *world) token(t testing.TB, uses int64) string {
	t.Helper()
	token, err := w.CreateToken(t.Context(), opscenter.TokenSpec{Description: "test", Uses: uses})
	require.NoError(t, err)
	return token.UUID
}

func (w *world) uses(t testing.TB, token string) int64 {
	t.Helper()
	found, err := w.Token(t.Context(), token)
	require.NoError(t, err)
	return found.UsesRemaining
}

// add registers the n-th server.
func (w *world) add(t testing.TB, n int) *opscenter.ServerInfo {
	t.Helper()
	registered, err := w.Register(t.Context(), registration(n, w.token(t, 1)))
	require.NoError(t, err)
	return w.get(t, registered.Name)
}

func (w *world) get(t testing.TB, name string) *opscenter.ServerInfo {
	t.Helper()
	info, err := w.Server(t.Context(), name)
	require.NoError(t, err)
	return info
}

// answer is the observation of a server that answers, and is ready.
func answer(info *opscenter.ServerInfo) lifecycle.Observation {
	kind, maintenance, member := lifecycle.TypeIncus, lifecycle.NotInMaintenance, info.Name
	return lifecycle.Observation{Server: info.Name, ID: info.ID, At: time.Now().UTC(), Ready: true, Type: &kind, Maintenance: &maintenance, MemberName: &member,
		Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000"},
			Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "202610010000", Primary: true}}, UpdateChannel: "stable"}}
}

func failed(info *opscenter.ServerInfo) lifecycle.Observation {
	return lifecycle.Observation{Server: info.Name, ID: info.ID, At: time.Now().UTC(),
		Failure: &lifecycle.Failure{Kind: lifecycle.FailureConnect, Message: "connection refused"}}
}

func (w *world) observe(t testing.TB, o ...lifecycle.Observation) {
	t.Helper()
	if last := o[len(o)-1].At; last.After(time.Now()) {
		w.SetClock(func() time.Time { return last }) // time passes in the test
	}
	require.NoError(t, w.Observer().Record(t.Context(), o...))
}

// ready makes a registered server ready.
func (w *world) ready(t testing.TB, n int) *opscenter.ServerInfo {
	t.Helper()
	info := w.add(t, n)
	w.observe(t, answer(info))
	return w.get(t, info.Name)
}

func (w *world) events(t testing.TB, kind event.Kind) []event.Event {
	t.Helper()
	var out []event.Event
	all, err := w.ListEvents(t.Context(), opscenter.EventFilter{Limit: opscenter.MaxPageSize})
	require.NoError(t, err)
	for _, e := range all {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

func (w *world) revision(t testing.TB) uint64 {
	t.Helper()
	revision, err := w.Revision(context.Background())
	require.NoError(t, err)
	return revision
}

func requireNoSecret(t testing.TB, text, secret string) {
	t.Helper()
	require.False(t, strings.Contains(text, secret), "a secret shows in: %.300s", text)
}

// isOneOf reports whether an error is one of these.
func isOneOf(err error, list ...error) bool {
	for _, one := range list {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}

func (w *world) setCluster(t testing.TB, server, cluster string) {
	t.Helper()
	require.NoError(t, w.SetCluster(context.Background(), server, cluster))
}
