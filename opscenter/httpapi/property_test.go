package httpapi_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
)

// spied is a store of which a test reads all rows.
type spied struct {
	storage.Store
	mu     sync.Mutex
	tables map[string]*storage.TableSchema
}

func (s *spied) Attach(ctx context.Context, tables ...*storage.TableSchema) error {
	s.mu.Lock()
	for _, table := range tables {
		s.tables[table.Name] = table
	}
	s.mu.Unlock()
	return s.Store.Attach(ctx, tables...)
}

// rows returns all rows, without those that are about requests themselves.
func (s *spied) rows(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	s.mu.Lock()
	tables := maps.Clone(s.tables)
	s.mu.Unlock()
	require.NoError(t, s.View(t.Context(), func(tx storage.ReadTx) error {
		clear(out)
		for name, table := range tables {
			if strings.HasPrefix(name, "audit") {
				continue
			}
			for row, err := range tx.Scan(table.Primary, storage.Range{}) {
				if err != nil {
					return err
				}
				data, err := table.Encode(row)
				if err != nil {
					return err
				}
				out[name+" "+hex.EncodeToString(table.Key(row))] = string(data)
			}
		}
		return nil
	}))
	return out
}

// everything starts a control plane with all its parts over a fleet of all types. No part acts by itself.
func everything(t *testing.T, also ...func(*httpapi.Options)) (p *plane, polls *poller.Poller, servers map[string]*incusostest.Server) {
	p = startWith(t, func(p *plane, o *httpapi.Options) {
		client := controltest.Client(t, incusos.Options{Certificate: &p.own, Timeout: 300 * time.Millisecond, CallTimeout: 600 * time.Millisecond, ListTimeout: 600 * time.Millisecond})
		var err error
		polls, err = poller.New(p.registry, client, poller.Options{Timeout: 2 * time.Second})
		require.NoError(t, err)
		o.Audit, err = audit.New(p.registry, audit.Options{})
		require.NoError(t, err)
		o.System, err = system.New(p.registry, client, system.Options{Audit: o.Audit, LeaveUpdates: true, LookTimeout: time.Second, SettleTimeout: 300 * time.Millisecond, Interval: 10 * time.Millisecond,
			Steady: 20 * time.Millisecond, MinTimeout: 1, ConfirmationTimeout: 300 * time.Millisecond, Grace: 300 * time.Millisecond, Provider: system.Provider{ServerURL: "https://127.0.0.1:1", Certificate: p.own.Leaf}})
		require.NoError(t, err)
		o.Rollouts, err = rollout.New(opscenter.NewUpdatePlanner(p.registry, client), rollout.Options{Poller: polls})
		require.NoError(t, err)
		o.Inventory, err = inventory.New(p.registry, client, inventory.Options{})
		require.NoError(t, err)
		o.Clusters, o.Forward, o.ForwardTimeout = cluster.New(p.registry, client, cluster.Options{Timeout: 2 * time.Second}), client, 500*time.Millisecond
		files, err := updates.NewDir(t.TempDir())
		require.NoError(t, err)
		o.Updates, err = updates.New(context.Background(), p.registry, files, updates.Options{Settings: &updates.Settings{}})
		require.NoError(t, err)
		store, err := image.NewStore(t.TempDir(), image.StoreOptions{})
		require.NoError(t, err)
		o.Images, err = image.New(p.registry, o.Updates, store, image.Options{ServerURL: p.url})
		require.NoError(t, err)
		o.Adopt = func(ctx context.Context, a httpapi.Adopting) ([]string, error) {
			return client.Adopt(ctx, p.registry, a.ConnectionURL, a.TrustToken, incusos.AdoptOptions{Name: a.Name, Channel: a.Channel, Names: a.Names, URLs: a.ConnectionURLs, Certificates: a.Certificates})
		}
		o.AccessTokens, err = accesstoken.New(p.registry, accesstoken.Options{})
		require.NoError(t, err)
		for _, change := range also {
			change(o)
		}
	})
	// Servers register at a listener of their own, which closes then: only the operators' requests change rows.
	door, url := controltest.Listen(t)
	defer controltest.Serve(t, door, p.handler, p.own, nil)()
	servers = map[string]*incusostest.Server{}
	for name, options := range map[string]incusostest.Options{"a": {}, "b": {}, "c": {}, "d": {}, "old": {Version: "202510010000", Release: "202510010000"}, "gone": {}, "plain": {Plain: true}, "manager": {Application: "migration-manager"}} {
		options.Name, options.Standalone = name, true
		server := controltest.Server(t, options)
		server.Trust(p.own.Leaf)
		if name == "plain" {
			require.NoError(t, p.registry.Adopt(t.Context(), opscenter.Adoption{Servers: []opscenter.AdoptedServer{{Name: name, ConnectionURL: server.URL(), Certificate: server.Certificate()}}}))
		} else {
			require.NoError(t, server.Register(t.Context(), incusostest.Provider{ServerURL: url, Token: p.token(1), Certificate: p.own.Leaf}))
		}
		servers[name] = server
		controltest.Poll(t, polls, name)
	}
	servers["gone"].Crash()
	_, err := p.registry.CreateCluster(t.Context(), "c9", opscenter.ClusterSpec{})
	require.NoError(t, err)
	_, err = p.registry.PreRegister(t.Context(), opscenter.PreRegistration{Name: "announced"})
	require.NoError(t, err)
	return p, polls, servers
}

// propertySeed repeats a run: OPSCENTER_SEED.
func propertySeed() uint64 {
	if seed, err := strconv.ParseUint(os.Getenv("OPSCENTER_SEED"), 10, 64); err == nil {
		return seed
	}
	return uint64(time.Now().UnixNano())
}

// TestOperatorsProperty sends random operators' requests to a control plane whose servers fail in all ways. No answer is 500, except
// one of a server's own API. A request that is answered 4xx, or handed on, has changed no row.
func TestOperatorsProperty(t *testing.T) {
	seed := propertySeed()
	t.Logf("OPSCENTER_SEED=%d repeats it", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	p, polls, servers := everything(t)
	client := p.client(&p.operator)
	names := slices.Sorted(maps.Keys(servers))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	healthy := []string{"a", "b", "c", "d"} // as long as no fault comes
	name := func() string {
		if r.IntN(2) == 0 {
			return pick(healthy...)
		}
		return pick(append(names, "announced", "missing", ":x", "a%20b")...)
	}
	inCluster := func() string { return pick("c1", "c2", "c9", "missing") }
	flag := func() string { return pick("", "", "?force=1", "?force=maybe") }
	known := func(path string) string { // one of a list
		var paths []string
		p.call(client, "GET", path, "").decode(t, &paths)
		if len(paths) == 0 {
			return path + "/none"
		}
		return paths[r.IntN(len(paths))]
	}
	list := func() string {
		of := append(names, "missing")
		if r.IntN(2) == 0 {
			of = healthy // which can be a cluster
		}
		var out []string
		for range r.IntN(4) {
			out = append(out, strconv.Quote(pick(of...)))
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	const provisioning = "/1.0/provisioning/"
	request := func() (method, path, body string) {
		server, clusters := serversPath+name(), provisioning+"clusters/"+inCluster()
		switch r.IntN(27) {
		case 0:
			return "POST", provisioning + "clusters", fmt.Sprintf(`{"name":%q,"server_names":%s,"channel":%q}`, inCluster(), list(), pick("", "stable", "none"))
		case 1:
			return "PUT", clusters, pick(`{}`, `{"description":"x"}`, `{"channel":"none"}`, `{"config":{"rolling_restart":{"restore_mode":"x"}}}`)
		case 2:
			return "POST", clusters, fmt.Sprintf(`{"name":%q}`, pick("c1", "c2", "c3", "a b"))
		case 3:
			return "DELETE", clusters + pick("", "?mode=force", "?mode=x"), ""
		case 4:
			return "POST", clusters + "/:add-servers", fmt.Sprintf(`{"server_names":%s}`, list())
		case 5:
			return "POST", clusters + "/:remove-servers" + flag(), fmt.Sprintf(`{"server_names":%s}`, list())
		case 6:
			return "POST", clusters + pick("/:update", "/:reboot", "/:cancel-operation", "/:resync-inventory") + pick("", "?dry-run=1"), pick("", "{}")
		case 7:
			return "POST", clusters + "/:bulk-update", pick(`{"action":"edit_network","arguments":{"dns":{"nameservers":["10.0.0.53"]}}}`, `{"action":"update_system_kernel","arguments":{"config":{"blacklist_modules":["x"]}}}`, `{"action":"x"}`)
		case 8:
			return "PUT", server, pick(`{}`, `{"description":"x"}`, `{"channel":"none"}`, `{"connection_url":"https://[::]:1"}`, `{"connection_url":"x"}`)
		case 9:
			return "POST", server, fmt.Sprintf(`{"name":%q}`, pick("a", "A", "b c", ":x"))
		case 10:
			return "DELETE", serversPath + pick("missing", "a", "announced") + flag(), ""
		case 11:
			return "POST", server + pick("/:accept-certificate", "/:resync"), pick(`{}`, `{"fingerprint":""}`, `{"fingerprint":"abc"}`)
		case 12, 13:
			return "POST", server + "/system/:" + pick("reboot", "poweroff", "suspend", "update", "evacuate", "restore", "factory-reset") + flag(), ""
		case 14, 15:
			return "GET", server + "/system/" + pick("network", "update", "storage", "provider", "kernel", "logging"), ""
		case 16, 17:
			section := pick("update", "kernel", "logging", "storage", "network", "provider")
			return "PUT", server + "/system/" + section + flag(), pick(`{"config":{}}`, `{"config":{"blacklist_modules":["x"]}}`, `{"config":{"auto_reboot":true,"channel":"stable","check_frequency":"6h"}}`,
				`{"config":{"interfaces":[{"name":"eth0","hwaddr":"10:66:6a:00:00:01","addresses":["10.0.0.1/24"],"roles":["management"]}]}}`, `{}`, `{"config":null}`)
		case 18:
			return "POST", provisioning + "rollouts" + pick("", "?dry-run=0"), pick(`{"selector":{"all":true}}`, `{"selector":{"servers":["a"]},"policy":{"goal":"reboot"}}`, `{"selector":{}}`, `{"selector":{"servers":["plain"]},"policy":{"goal":"reboot"}}`)
		case 19:
			return "POST", known(provisioning+"rollouts") + pick("/:pause", "/:resume", "/:cancel", "/:x") + pick("", "?mode=stop", "?mode=restore", "?mode=x"), ""
		case 20:
			return pick("POST", "PUT"), pick(provisioning+"tokens", known(provisioning+"tokens")), pick(`{}`, `{"uses_remaining":-1}`, `{"channel":"none"}`)
		case 21:
			return "POST", serversPath + ":adopt", pick(`{"trust_token":"x"}`, fmt.Sprintf(`{"trust_token":%q,"name":%q}`, servers[pick(names...)].TrustToken("x"), pick("", "a", "new", "a b")))
		case 22:
			return "GET", pick(provisioning+"servers?recursion=1&filter="+pick("true", "x"), provisioning+"clusters?recursion=1", "/1.0/warnings?recursion=1", "/1.0/inventory/status", "/1.0/audit", server+"?facts=0", server), ""
		}
		return pick("GET", "PUT"), server + "/os/1.0/system/" + pick("kernel", "security", "none"), pick("", `{"config":{}}`)
	}
	require.Equal(t, http.StatusCreated, p.call(client, "POST", provisioning+"clusters", `{"name":"c1","server_names":["c","d"]}`).http.StatusCode)
	requests := 400
	if testing.Short() {
		requests = 100
	}
	counted, handedOn := map[int]int{}, map[int]int{}
	for range requests {
		switch r.IntN(8) {
		case 0: // a fault comes, or goes
			kinds := []incusostest.FaultKind{incusostest.FaultNone}
			if r.IntN(2) == 0 {
				kinds = incusostest.Faults
			}
			fault := incusostest.Fault{Kind: kinds[r.IntN(len(kinds))], Path: pick("", "/os/", "/1.0/cluster", "/1.0/instances"), Method: pick("", "PUT", "POST"), Times: r.IntN(3)}
			if fault.Kind == incusostest.FaultSilent || fault.Kind == incusostest.FaultHang || fault.Kind == incusostest.FaultSlow || fault.Kind == incusostest.FaultTrickle || fault.Kind == incusostest.FaultHuge {
				fault.Times = 1 // these faults take long
			}
			require.NoError(t, servers[pick(names...)].SetFault(fault))
		case 1:
			servers[pick(names...)].AddInstance("default", fmt.Sprint("i", r.IntN(1e6)), r.IntN(2) == 0)
		case 2:
			_, err := polls.Poll(t.Context(), pick(names...))
			if err != nil {
				require.ErrorIs(t, err, opscenter.ErrNotFound) // it was deleted
			}
		}
		method, path, body := request()
		before := p.store.rows(t)
		code, text, err := p.try(client, method, path, body)
		forwarded := strings.Contains(path, "/os/1.0/") // a server's answer is handed on, and cut off where the server cuts it off
		if err != nil {
			require.True(t, forwarded, "%s %s %s: %v", method, path, body, err)
			continue
		}
		if counted[code]++; forwarded {
			handedOn[code]++
		}
		saysSo := forwarded && strings.Contains(text, incusostest.FaultErrorText)
		require.False(t, code == http.StatusInternalServerError && !saysSo, "%s %s %s: %s\n%s", method, path, body, text, tail(p.log.String()))
		if code >= 400 && code < 500 || forwarded {
			after := p.store.rows(t)
			require.Len(t, after, len(before), "%s %s %s was answered %d", method, path, body, code)
			maps.DeleteFunc(after, func(key, row string) bool { old, was := before[key]; return was && old == row })
			require.Empty(t, after, "%s %s %s was answered %d, and changed something: %s", method, path, body, code, text)
		}
	}
	t.Logf("answers: %v, of them forwarded: %v", counted, handedOn)
	require.Greater(t, counted[200]+counted[201], requests/20)
	require.Positive(t, counted[502]+counted[504]+counted[503])
	require.Positive(t, handedOn[200])
}

// TestFaultsAreNoInternalErrors: each fault of a server, at each endpoint that asks it, is answered 502, 503 or 504 with a reason.
func TestFaultsAreNoInternalErrors(t *testing.T) {
	p, polls, _ := everything(t)
	client := p.client(&p.operator)
	for _, kind := range []incusostest.FaultKind{incusostest.FaultDown, incusostest.FaultSilent, incusostest.FaultGarbage, incusostest.FaultTruncated, incusostest.FaultWrongCertificate, incusostest.FaultReset, incusostest.FaultError, incusostest.FaultNotFound} {
		name := "fault-" + strings.ReplaceAll(string(kind), " ", "-")
		server := p.boot(incusostest.Options{Name: name, Standalone: true})
		_, err := polls.Poll(t.Context(), name)
		require.NoError(t, err)
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: kind}))
		for _, request := range [][3]string{
			{"POST", "/1.0/provisioning/clusters", fmt.Sprintf(`{"name":"c1","server_names":["a",%q]}`, name)},
			{"GET", serversPath + name + "/system/network", ""},
			{"GET", serversPath + name + "/system/update", ""},
			{"PUT", serversPath + name + "/system/kernel", `{"config":{"blacklist_modules":["x"]}}`},
			{"POST", serversPath + name + "/system/:suspend", ""},
		} {
			code, text := p.send(client, request[0], request[1], request[2])
			require.Contains(t, []int{502, 503, 504}, code, "%s: %v: %s", kind, request, text)
			require.Contains(t, text, "server", "it says why")
		}
		_, err = p.registry.Cluster(t.Context(), "c1")
		require.ErrorIs(t, err, opscenter.ErrNotFound, kind)
	}
}

func tail(text string) string { return text[max(0, len(text)-3000):] }
