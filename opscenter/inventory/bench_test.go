package inventory_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-memdb"
	incus "github.com/lxc/incus/v6/client"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// The large inventory of the benchmarks.
const (
	benchClusters = 1000
	benchObjects  = 500
)

// documents are the answers of a simulated cluster with benchObjects objects.
func documents(tb testing.TB) map[inventory.Kind][]json.RawMessage {
	tb.Helper()
	server, err := incusostest.New(incusostest.Options{Name: "sim", Standalone: true})
	require.NoError(tb, err)
	defer server.Close()
	server.Furnish(benchObjects)
	identity, err := selfsigned.New("bench")
	require.NoError(tb, err)
	server.Trust(identity.Leaf)
	client := incusos.New(incusos.Options{Certificate: &identity})
	defer client.Close()
	target := opscenter.Target{Name: "sim", ID: "sim", ConnectionURL: server.URL(), Fingerprint: opscenter.Fingerprint(server.Certificate())}
	out := map[inventory.Kind][]json.RawMessage{}
	n := 0
	for kind, path := range map[inventory.Kind]string{"project": "projects", "storage_pool": "storage-pools", "network": "networks", "profile": "profiles", "image": "images",
		"instance": "instances", "network_acl": "network-acls", "network_zone": "network-zones", "storage_volume": "storage-pools/local/volumes",
		"network_forward": "networks/net0/forwards", "storage_bucket": "storage-pools/local/buckets"} {
		recursion := "1"
		if kind == "instance" {
			recursion = "2"
		}
		require.NoError(tb, client.ReadList(tb.Context(), target, "/1.0/"+path+"?all-projects=true&recursion="+recursion, func(entry json.RawMessage) error {
			out[kind] = append(out[kind], bytes.Clone(entry))
			n++
			return nil
		}))
	}
	require.Greater(tb, n, benchObjects*9/10)
	return out
}

// large returns an inventory of 1,000 servers with 500 objects each, the number of objects, and the heap it takes.
func large(b *testing.B, store storage.Store) (m *inventory.Manager, total int, heap uint64) {
	b.Helper()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(b, err)
	m, err = inventory.New(registry, nil, inventory.Options{})
	require.NoError(b, err)
	certificates := make([]*x509.Certificate, benchClusters)
	for i := range certificates {
		made, err := selfsigned.New(fmt.Sprint("bench", i))
		require.NoError(b, err)
		certificates[i] = made.Leaf
	}
	for i, c := range certificates {
		require.NoError(b, registry.Adopt(b.Context(), opscenter.Adoption{Servers: []opscenter.AdoptedServer{{Name: fmt.Sprintf("s%04d", i), ConnectionURL: fmt.Sprintf("https://10.0.%d.%d:8443", i/250, i%250+1), Certificate: c}}}))
	}
	list := documents(b)
	before := inUse()
	for info, err := range registry.Servers(b.Context(), opscenter.ServerFilter{}) {
		require.NoError(b, err)
		require.NoError(b, m.Fill(b.Context(), info.ID, list))
		for kind := range list {
			total += len(list[kind])
		}
	}
	return m, total, inUse() - before
}

// inUse returns the heap after the store has finished its background writes.
func inUse() uint64 {
	var last uint64
	for {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		if last > 0 && s.HeapAlloc > last-last/100 {
			return min(last, s.HeapAlloc)
		}
		last = s.HeapAlloc
		time.Sleep(time.Second)
	}
}

// BenchmarkLarge queries an inventory of 1,000 clusters with 500 objects each, in memory and on
// disk: all networks of one cluster, and a filter over all objects.
func BenchmarkLarge(b *testing.B) {
	for _, backend := range []string{"memory", "badger"} {
		b.Run(backend, func(b *testing.B) {
			var store storage.Store = memstore.New()
			if backend == "badger" {
				var err error
				store, err = badgerstore.Open(b.TempDir())
				require.NoError(b, err)
			}
			defer store.Close()
			m, total, heap := large(b, store)
			b.Run("list", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					page, err := m.List(b.Context(), inventory.Query{Cluster: "s0500", Kinds: []inventory.Kind{inventory.KindInstance}, Limit: 100})
					require.NoError(b, err)
					require.Len(b, page.Objects, 100)
				}
				b.ReportMetric(float64(heap)/float64(total), "heap-B/object")
			})
			for name, filter := range map[string]string{"config": `object.config["ipv4.address"] == "10.115.25.1/24"`, "used_by": `"/1.0/profiles/default" in object.used_by`, "name": `name == "c0001"`} {
				b.Run("expression/"+name, func(b *testing.B) {
					for b.Loop() {
						counts, err := m.Count(b.Context(), inventory.Query{Filter: filter})
						require.NoError(b, err)
						require.NotZero(b, counts.Total)
					}
					b.ReportMetric(float64(total), "objects")
				})
			}
			b.Run("search", func(b *testing.B) {
				for b.Loop() {
					counts, err := m.Count(b.Context(), inventory.Query{Search: "data 0004"})
					require.NoError(b, err)
					require.NotZero(b, counts.Total)
				}
			})
		})
	}
}

// rawObject is an object in a bare go-memdb.
type rawObject struct {
	Key  string
	Data []byte
}

// BenchmarkListLimit is the limit for a list of one kind in one cluster: the same 100 rows out of
// as many in a bare go-memdb.
func BenchmarkListLimit(b *testing.B) {
	db, err := memdb.NewMemDB(&memdb.DBSchema{Tables: map[string]*memdb.TableSchema{"objects": {Name: "objects",
		Indexes: map[string]*memdb.IndexSchema{"id": {Name: "id", Unique: true, Indexer: &memdb.StringFieldIndex{Field: "Key"}}}}}})
	require.NoError(b, err)
	for kind, list := range documents(b) {
		for i := range benchClusters {
			tx := db.Txn(true)
			for n, data := range list {
				require.NoError(b, tx.Insert("objects", &rawObject{fmt.Sprintf("s%04d/%s/%06d", i, kind, n), data}))
			}
			tx.Commit()
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		it, err := db.Txn(false).LowerBound("objects", "id", "s0500/instance/")
		require.NoError(b, err)
		n := 0
		for raw := it.Next(); raw != nil && n < 100; raw = it.Next() {
			n++
		}
		require.Equal(b, 100, n)
	}
}

// BenchmarkScan scans an unchanged cluster over real TLS. Its limit is the bare Incus client with the same
// lists, which keeps its connections, and decodes the answers into Incus's types.
func BenchmarkScan(b *testing.B) {
	for _, legacy := range []bool{false, true} { // newer releases need a request for each of the 70 custom volumes
		b.Run(map[bool]string{false: "snapshots apart", true: "as of Incus 6.0"}[legacy], func(b *testing.B) { benchmarkScan(b, legacy) })
	}
}

func benchmarkScan(b *testing.B, legacy bool) {
	server, err := incusostest.New(incusostest.Options{Name: "sim", Standalone: true, LegacyVolumes: legacy})
	require.NoError(b, err)
	defer server.Close()
	server.Furnish(benchObjects)
	identity, err := selfsigned.New("bench")
	require.NoError(b, err)
	client := incusos.New(incusos.Options{Certificate: &identity})
	defer client.Close()
	store, err := badgerstore.Open(b.TempDir())
	require.NoError(b, err)
	defer store.Close()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(b, err)
	_, err = client.Adopt(b.Context(), registry, server.URL(), server.TrustToken("bench"), incusos.AdoptOptions{})
	require.NoError(b, err)
	info, err := registry.Server(b.Context(), "sim")
	require.NoError(b, err)
	require.NoError(b, registry.Observer().Record(b.Context(), client.Probe(b.Context(), info.Target())))

	b.Run("inventory", func(b *testing.B) {
		m, err := inventory.New(registry, client, inventory.Options{})
		require.NoError(b, err)
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		defer func() {
			cancel()
			<-ended
		}()
		for {
			status, err := m.Status(b.Context())
			require.NoError(b, err)
			if len(status) == 1 && status[0].Following {
				break
			}
			runtime.Gosched()
		}
		before := store.Stats().Commits
		for b.Loop() {
			require.NoError(b, m.ResyncCluster(b.Context(), "sim"))
		}
		require.Equal(b, before, store.Stats().Commits, "no commit")
	})
	b.Run("client", func(b *testing.B) {
		cert, key := pemOf(b, &identity)
		connection, err := incus.ConnectIncus(server.URL(), &incus.ConnectionArgs{TLSClientCert: cert, TLSClientKey: key, InsecureSkipVerify: true, SkipGetEvents: true,
			Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, TransportWrapper: keepAlive})
		require.NoError(b, err)
		for b.Loop() {
			bare(b, connection, !legacy)
		}
	})
}

// bare lists all objects as a program without this SDK does.
func bare(b *testing.B, c incus.InstanceServer, apart bool) {
	b.Helper()
	must := func(err error) {
		if err != nil && !strings.Contains(err.Error(), "not support") {
			b.Fatal(err)
		}
	}
	_, _, err := c.GetServer()
	must(err)
	_, err = c.GetProjects()
	must(err)
	pools, err := c.GetStoragePools()
	must(err)
	networks, err := c.GetNetworksAllProjects()
	must(err)
	_, err = c.GetProfilesAllProjects()
	must(err)
	_, err = c.GetImagesAllProjects()
	must(err)
	_, err = c.GetInstancesFullAllProjects("")
	must(err)
	_, err = c.GetNetworkACLsAllProjects()
	must(err)
	_, err = c.GetNetworkAddressSetsAllProjects()
	must(err)
	_, err = c.GetNetworkIntegrations()
	must(err)
	_, err = c.GetNetworkZonesAllProjects()
	must(err)
	for _, n := range networks {
		in := c.UseProject(n.Project)
		_, err = in.GetNetworkForwards(n.Name)
		must(err)
		_, err = in.GetNetworkLoadBalancers(n.Name)
		must(err)
		_, err = in.GetNetworkPeers(n.Name)
		must(err)
	}
	for _, p := range pools {
		volumes, err := c.GetStoragePoolVolumesAllProjects(p.Name)
		must(err)
		for _, v := range volumes {
			if apart && v.Type == "custom" {
				_, err = c.UseProject(v.Project).GetStoragePoolVolumeSnapshots(p.Name, v.Type, v.Name)
				must(err)
			}
		}
		_, err = c.GetStoragePoolBucketsAllProjects(p.Name)
		must(err)
	}
}
