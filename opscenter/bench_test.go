package opscenter_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/hashicorp/go-memdb"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// The benchmarks stand beside the limit they are measured against: what a program would do
// that keeps the same two rows per server, its identity and its state, in the bare engine.

// fleetSize is how many servers are read and listed; heapFleet has facts too.
const (
	fleetSize = 100_000
	heapFleet = 20_000
)

// fill registers servers, and makes them ready.
func fill(b *testing.B, registry *opscenter.Registry, n int, facts bool) {
	b.Helper()
	registerMany(b, registry, 0, n, func(i int, registered string) error {
		info, err := registry.Server(context.Background(), registered)
		if err != nil {
			return err
		}
		o := answer(info)
		if facts {
			o.Facts = &lifecycle.Facts{Hardware: incusostest.Hardware(uint64(i + 1))}
		}
		return registry.Observer().Record(context.Background(), o)
	})
}

// registerMany registers servers from a number on, 64 at a time. then is called for each.
func registerMany(b *testing.B, registry *opscenter.Registry, from, n int, then func(i int, name string) error) {
	b.Helper()
	key := certificate(0)
	token, err := registry.CreateToken(b.Context(), opscenter.TokenSpec{Uses: opscenter.MaxTokenUses})
	if err != nil {
		b.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(64)
	for i := from; i < from+n; i++ {
		group.Go(func() error {
			// Only the raw bytes make the identity here; to sign for each would take its time.
			identity := &x509.Certificate{Raw: append(fmt.Appendf(nil, "%08d", i), key.Raw...), PublicKey: key.PublicKey}
			registered, err := registry.Register(context.Background(), opscenter.Registration{Token: token.UUID, Certificate: identity, Name: name(i),
				ConnectionURL: fmt.Sprintf("https://10.%d.%d.%d:8443", i>>16, i>>8&0xff, i&0xff), MachineID: machineID(i), SystemUUID: systemUUID(i)})
			if err != nil {
				return err
			}
			return then(i, registered.Name)
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

func name(i int) string { return fmt.Sprintf("server%06d", i) }

func benchRegistry(b *testing.B, store storage.Store) *opscenter.Registry {
	b.Helper()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, registry, fleetSize, false)
	return registry
}

func BenchmarkMemory(b *testing.B) {
	registry := benchRegistry(b, memstore.New())
	raw := rawMemdb(b, registry)
	ctx := context.Background()
	b.Run("get/raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			txn := raw.Txn(false)
			key := name(rand.IntN(fleetSize))
			server, _ := txn.First("servers", "id", key)
			state, _ := txn.First("states", "id", key)
			if server.(*opscenter.Server).Name != state.(*lifecycle.ServerState).Name {
				b.Fatal("another server")
			}
		}
	})
	b.Run("get/registry", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := registry.Server(ctx, name(rand.IntN(fleetSize))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list/raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			txn := raw.Txn(false)
			rows, err := txn.Get("servers", "id")
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for row := rows.Next(); row != nil; row = rows.Next() {
				if state, _ := txn.First("states", "id", row.(*opscenter.Server).Name); state.(*lifecycle.ServerState).Status == lifecycle.StatusReady {
					n++
				}
			}
			if n != fleetSize {
				b.Fatal(n)
			}
		}
	})
	b.Run("list/registry", func(b *testing.B) { listRegistry(b, registry) })
}

func listRegistry(b *testing.B, registry *opscenter.Registry) {
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for info, err := range registry.Servers(context.Background(), opscenter.ServerFilter{}) {
			if err != nil {
				b.Fatal(err)
			}
			if info.State.Status == lifecycle.StatusReady {
				n++
			}
		}
		if n != fleetSize {
			b.Fatal(n)
		}
	}
}

// rawMemdb holds copies of the same rows, without any of ours around them.
func rawMemdb(b *testing.B, registry *opscenter.Registry) *memdb.MemDB {
	b.Helper()
	table := func(name string) *memdb.TableSchema {
		return &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{"id": {Name: "id", Unique: true, Indexer: &memdb.StringFieldIndex{Field: "Name"}}}}
	}
	db, err := memdb.NewMemDB(&memdb.DBSchema{Tables: map[string]*memdb.TableSchema{"servers": table("servers"), "states": table("states")}})
	if err != nil {
		b.Fatal(err)
	}
	// Filled as a fleet fills it, here as in the registry: in no order, and a transaction each.
	// One large transaction would lay out neighbours side by side in memory.
	var infos []*opscenter.ServerInfo
	for info, err := range registry.Servers(context.Background(), opscenter.ServerFilter{}) {
		if err != nil {
			b.Fatal(err)
		}
		infos = append(infos, info)
	}
	rand.Shuffle(len(infos), func(i, j int) { infos[i], infos[j] = infos[j], infos[i] })
	for _, info := range infos {
		txn := db.Txn(true)
		if err := errors.Join(txn.Insert("servers", copyOf(b, &info.Server)), txn.Insert("states", copyOf(b, &info.State))); err != nil {
			b.Fatal(err)
		}
		txn.Commit()
	}
	return db
}

func copyOf[T any](b *testing.B, row *T) *T {
	data, err := json.Marshal(row)
	out := new(T)
	if err := errors.Join(err, json.Unmarshal(data, out)); err != nil {
		b.Fatal(err)
	}
	return out
}

func BenchmarkBadger(b *testing.B) {
	dir := b.TempDir()
	store, err := badgerstore.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	registry := benchRegistry(b, store)
	raw := rawBadger(b, registry)
	defer raw.Close()
	ctx := context.Background()
	b.Run("get/raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			err := raw.View(func(txn *badger.Txn) error {
				key := name(rand.IntN(fleetSize))
				var server opscenter.Server
				var state lifecycle.ServerState
				return errors.Join(rawGet(txn, "a/"+key, &server), rawGet(txn, "b/"+key, &state))
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get/registry", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := registry.Server(ctx, name(rand.IntN(fleetSize))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list/raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			err := raw.View(func(txn *badger.Txn) error {
				options := badger.DefaultIteratorOptions
				options.Prefix = []byte("a/")
				servers := txn.NewIterator(options)
				defer servers.Close()
				options.Prefix = []byte("b/")
				states := txn.NewIterator(options)
				defer states.Close()
				states.Rewind()
				for servers.Rewind(); servers.Valid(); servers.Next() {
					var server opscenter.Server
					var state lifecycle.ServerState
					if err := errors.Join(rawDecode(servers.Item(), &server), rawDecode(states.Item(), &state)); err != nil {
						return err
					}
					if server.Name == state.Name && state.Status == lifecycle.StatusReady {
						n++
					}
					states.Next()
				}
				return nil
			})
			if err != nil || n != fleetSize {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("list/registry", func(b *testing.B) { listRegistry(b, registry) })
}

// rawBadger holds the same rows, in the same encoding, in a Badger with the same sizes.
func rawBadger(b *testing.B, registry *opscenter.Registry) *badger.DB {
	b.Helper()
	db, err := badger.Open(badger.DefaultOptions(b.TempDir()).WithLogger(nil).WithMemTableSize(32 << 20).WithNumMemtables(2).WithValueThreshold(8 << 10).
		WithBlockCacheSize(64 << 20).WithIndexCacheSize(32 << 20).WithNumCompactors(2).WithMetricsEnabled(false))
	if err != nil {
		b.Fatal(err)
	}
	batch := db.NewWriteBatch()
	for info, err := range registry.Servers(context.Background(), opscenter.ServerFilter{}) {
		if err != nil {
			b.Fatal(err)
		}
		for prefix, row := range map[string]any{"a/": &info.Server, "b/": &info.State} {
			data, err := json.Marshal(row)
			if err != nil {
				b.Fatal(err)
			}
			if err := batch.Set([]byte(prefix+info.Name), data); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := batch.Flush(); err != nil {
		b.Fatal(err)
	}
	return db
}

func rawGet(txn *badger.Txn, key string, into any) error {
	item, err := txn.Get([]byte(key))
	if err != nil {
		return err
	}
	return rawDecode(item, into)
}

func rawDecode(item *badger.Item, into any) error {
	return item.Value(func(data []byte) error { return json.Unmarshal(data, into) })
}

// BenchmarkHeap reports what a server with 30 KiB of facts takes in memory.
func BenchmarkHeap(b *testing.B) {
	for backend, open := range map[string]func(b *testing.B) storage.Store{
		"memory": func(*testing.B) storage.Store { return memstore.New() },
		"badger": func(b *testing.B) storage.Store {
			store, err := badgerstore.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			return store
		},
	} {
		b.Run(backend, func(b *testing.B) {
			for b.Loop() {
				before := heapInUse()
				store := open(b)
				registry, err := opscenter.NewRegistry(store, opscenter.Options{})
				if err != nil {
					b.Fatal(err)
				}
				fill(b, registry, heapFleet, true)
				b.ReportMetric(float64(heapInUse()-before)/heapFleet, "heap-B/server")
				if err := errors.Join(registry.Close(), store.Close()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// heapInUse returns the heap once it has come to rest: flushes and compactions take and
// return memory for some seconds after the last write.
func heapInUse() int64 {
	var last int64
	for range 15 {
		runtime.GC()
		time.Sleep(time.Second)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if now := int64(m.HeapAlloc); last == 0 || now < last-last/100 {
			last = now
		}
	}
	return last
}

// BenchmarkObserve measures a poll's way into the store when it finds nothing new.
func BenchmarkObserve(b *testing.B) {
	store := memstore.New()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, registry, 100, true)
	var observations []lifecycle.Observation
	for info, err := range registry.Servers(b.Context(), opscenter.ServerFilter{}) {
		if err != nil {
			b.Fatal(err)
		}
		o := answer(info)
		facts, err := registry.ServerFacts(b.Context(), info.Name)
		if err != nil {
			b.Fatal(err)
		}
		o.Facts = facts
		observations = append(observations, o)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := registry.Observer().Record(b.Context(), observations[i%len(observations)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkFactsDigest(b *testing.B) {
	f := &lifecycle.Facts{Hardware: incusostest.Hardware(1)}
	b.SetBytes(int64(f.Size()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := opscenter.DigestFacts(f); err != nil {
			b.Fatal(err)
		}
	}
}
