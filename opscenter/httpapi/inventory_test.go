package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/poller"
)

// inventoried is a plane that keeps an inventory, and a simulated Incus that it has adopted.
func inventoried(t *testing.T) (*plane, *incusostest.Server) {
	var run []func(context.Context) error
	p := startWith(t, func(p *plane, o *httpapi.Options) {
		client := controltest.Client(t, incusos.Options{Certificate: &p.own})
		polls, err := poller.New(p.registry, client, poller.Options{})
		require.NoError(t, err)
		o.Inventory, err = inventory.New(p.registry, client, inventory.Options{})
		require.NoError(t, err)
		o.Adopt = func(ctx context.Context, a httpapi.Adopting) ([]string, error) {
			return client.Adopt(ctx, p.registry, a.ConnectionURL, a.TrustToken, incusos.AdoptOptions{Name: a.Name, Channel: a.Channel, Names: a.Names, URLs: a.ConnectionURLs, Certificates: a.Certificates})
		}
		run = append(run, polls.Run, o.Inventory.Run)
	})
	controltest.Background(t, run...)
	server := controltest.Server(t, incusostest.Options{Name: "sim", Standalone: true})
	server.Furnish(60)
	return p, server
}

func TestInventory(t *testing.T) {
	p, server := inventoried(t)
	client := p.client(&p.operator)
	const base = "/1.0/inventory/"

	token := server.TrustToken("control-plane")
	body := fmt.Sprintf(`{"connection_url":%q,"trust_token":%q}`, server.URL(), token)
	require.Equal(t, http.StatusUnauthorized, p.call(p.client(nil), "POST", "/1.0/provisioning/servers/:adopt", body).ErrorCode)
	for _, bad := range []string{`{}`, `{"trust_token":"nonsense"}`, fmt.Sprintf(`{"connection_url":"https://127.0.0.1:1","trust_token":%q}`, token)} {
		answer := p.call(client, "POST", "/1.0/provisioning/servers/:adopt", bad)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusBadGateway}, answer.ErrorCode, answer.Error)
		require.NotContains(t, answer.Error, token)
	}
	var adopted []string
	p.call(client, "POST", "/1.0/provisioning/servers/:adopt", body).decode(t, &adopted)
	require.Equal(t, []string{"/1.0/provisioning/servers/sim"}, adopted)
	p.until(client, base+"status", `"following":true`)

	var all []map[string]any
	p.call(client, "GET", base+"instances?recursion=1", "").decode(t, &all)
	require.NotEmpty(t, all)
	var paths []string
	p.call(client, "GET", base+"instances", "").decode(t, &paths)
	require.Len(t, paths, len(all))
	require.Equal(t, base+"instances/"+all[0]["uuid"].(string), paths[0])
	var one map[string]any
	p.call(client, "GET", paths[0], "").decode(t, &one)
	require.Equal(t, all[0], one)
	require.Equal(t, "sim", one["cluster"])
	require.Equal(t, "sim", one["server"])
	require.Equal(t, http.StatusNotFound, p.call(client, "GET", strings.Replace(paths[0], "instances", "networks", 1), "").ErrorCode, "it is no network")

	filtered := func(path, filter string) (out []map[string]any) {
		p.call(client, "GET", path+"&filter="+url.QueryEscape(filter), "").decode(t, &out)
		return out
	}
	require.Len(t, filtered(base+"networks?recursion=1", `object.config["ipv4.address"] == "10.115.25.1/24"`), 1)
	require.Empty(t, filtered(base+"networks?recursion=1&cluster=other", `true`))
	require.NotEmpty(t, filtered(base+"instances?recursion=1&project=web&cluster=sim&server=sim", `"default" in object.profiles`))
	require.Len(t, filtered(base+"query?kind=network&cluster=sim&cluster=other&server=sim&server_include_null=true", `true`), 1)
	require.Empty(t, filtered(base+"query?kind=network&cluster=sim&server=sim", `true`), "networks are on all servers")
	require.Equal(t, len(filtered(base+"instances?recursion=1&project=web", `true`))+len(filtered(base+"instances?recursion=1&project=default", `true`)),
		len(filtered(base+"instances?recursion=1&project=web&project=default&server=&parent=&project_include_null=false", `true`)))
	require.Equal(t, 400, p.call(client, "GET", base+"query?server=sim&server_include_null=perhaps", "").ErrorCode)
	require.Equal(t, 400, p.call(client, "GET", base+"instances?name=a&name=b", "").ErrorCode)
	aggregates := filtered(base+"query?kind=network&kind=storage_pools", `name != "x"`)
	require.Len(t, aggregates, 1)
	require.Len(t, aggregates[0]["networks"], 1)
	require.Len(t, aggregates[0]["storage_pools"], 1)
	require.NotContains(t, aggregates[0], "instances")
	page := p.call(client, "GET", base+"instances?limit=3", "")
	page.decode(t, &paths)
	require.Len(t, paths, 3)
	for _, bad := range []string{"instances?filter=nmae", "instances?filter=name+%3D%3D", "query?kind=x", "query?recursion=1", "changes?after=x", "instances?cursor=!", "status?x=1", "counts?kind=x"} {
		require.Equal(t, http.StatusBadRequest, p.call(client, "GET", base+bad, "").ErrorCode, bad)
	}
	require.Contains(t, p.call(client, "GET", base+"instances?filter="+url.QueryEscape(`nmae == "x"`), "").Error, "line 1, column 1: unknown name nmae")
	require.Contains(t, string(p.call(client, "GET", base+"counts?kind=network", "").Metadata), `"by_kind":{"network":1}`)

	server.AddInstance("default", "new", true)
	p.until(client, base+"instances?recursion=1&name=new", `"name":"new"`)
	changes := p.until(client, base+"changes?after=0&limit=10", `"event":"instance-created"`)
	require.Contains(t, changes, `"requestor":"tls/operator"`)
	p.call(client, "GET", base+"instances?name=new", "").decode(t, &paths)
	require.Contains(t, string(p.call(client, "GET", paths[0]+"/history", "").Metadata), `"action":"created"`)
	require.Equal(t, http.StatusNotFound, p.call(client, "GET", strings.Replace(paths[0], "instances", "networks", 1)+"/history", "").ErrorCode)
	require.Equal(t, http.StatusBadRequest, p.call(client, "GET", paths[0]+"/history?x=1", "").ErrorCode)
	require.Empty(t, p.call(client, "POST", paths[0]+"/:resync", "").Error)
	require.Equal(t, http.StatusNotFound, p.call(client, "POST", base+"instances/none/:resync", "").ErrorCode)
	require.Empty(t, p.call(client, "POST", "/1.0/provisioning/clusters/sim/:resync-inventory", "").Error)

	// The same expressions select servers and clusters.
	require.Len(t, filtered("/1.0/provisioning/servers?recursion=1&facts=0", `server_type == "incus" and name startsWith "s"`), 1)
	require.Empty(t, filtered("/1.0/provisioning/clusters?recursion=1", `channel == "x"`))
	require.Equal(t, http.StatusBadRequest, p.call(client, "GET", "/1.0/provisioning/clusters?filter=x", "").ErrorCode)

	without := start(t, nil)
	require.Equal(t, http.StatusNotImplemented, without.call(without.client(&without.operator), "GET", base+"networks", "").ErrorCode)
	require.Equal(t, http.StatusUnauthorized, without.call(without.client(nil), "GET", base+"networks", "").ErrorCode)
}

// TestInventoryShapes compares documents with Operations Center's API description.
func TestInventoryShapes(t *testing.T) {
	api := readDescription(t)
	p, server := inventoried(t)
	client := p.client(&p.operator)
	p.call(client, "POST", "/1.0/provisioning/servers/:adopt", fmt.Sprintf(`{"trust_token":%q}`, server.TrustToken("x")))
	p.until(client, "/1.0/inventory/status", `"following":true`)
	var aggregates []map[string]any
	p.call(client, "GET", "/1.0/inventory/query", "").decode(t, &aggregates)
	for field := range api.Definitions["InventoryAggregate"].Properties {
		require.Contains(t, aggregates[0], field)
	}
	definitions := map[inventory.Kind]string{"network_acl": "NetworkACL"}
	for _, kind := range inventory.Kinds {
		if kind == inventory.KindClusterMember {
			continue // Operations Center has none
		}
		for _, path := range []string{"", "/{uuid}", "/{uuid}/:resync"} {
			require.Contains(t, api.Paths, "/1.0/inventory/"+kind.Plural()+path)
		}
		name := definitions[kind]
		if name == "" {
			for word := range strings.SplitSeq(string(kind), "_") {
				name += strings.ToUpper(word[:1]) + word[1:]
			}
		}
		properties := api.Definitions["Inventory"+name].Properties
		require.NotEmpty(t, properties, name)
		var shown []map[string]any
		p.call(client, "GET", "/1.0/inventory/"+kind.Plural()+"?recursion=1", "").decode(t, &shown)
		require.NotEmpty(t, shown, kind)
		for field := range properties {
			require.Contains(t, shown[0], field, kind)
		}
	}
}

// TestSameName: a cluster and a server in no cluster may have the same name.
func TestSameName(t *testing.T) {
	p, server := inventoried(t)
	client := p.client(&p.operator)
	other := controltest.Server(t, incusostest.Options{Name: "member", Standalone: true})
	other.Furnish(20)
	require.NoError(t, incusostest.Cluster(other))
	adopt := func(name, token string) *answer {
		return p.call(client, "POST", "/1.0/provisioning/servers/:adopt", fmt.Sprintf(`{"name":%q,"trust_token":%q}`, name, token))
	}
	require.Empty(t, adopt("dup", server.TrustToken("x")).Error)
	token := other.TrustToken("x")
	require.Equal(t, http.StatusConflict, adopt("dup", token).ErrorCode)
	require.Zero(t, other.Requests("POST /1.0/certificates"), "the token is good still")
	require.Empty(t, adopt("cluster", token).Error)
	require.NoError(t, p.registry.RenameCluster(t.Context(), "cluster", "dup", nil))
	p.until(client, "/1.0/inventory/status", `"server":"member","following":true`)
	p.until(client, "/1.0/inventory/status", `"server":"dup","following":true`)
	for _, path := range []string{"query", "query?cluster=dup"} {
		var out []map[string]any
		p.call(client, "GET", "/1.0/inventory/"+path, "").decode(t, &out)
		require.Len(t, out, 2)
		for _, aggregate := range out {
			require.Equal(t, "dup", aggregate["cluster"])
			require.NotEmpty(t, aggregate["projects"])
		}
	}
	require.Empty(t, adopt("dup", other.TrustToken("x")).Error, "again is no error")
	require.Empty(t, adopt("dup", server.TrustToken("x")).Error)
}

// TestResyncDown: a resync answers 502 if the daemon can't be reached.
func TestResyncDown(t *testing.T) {
	p, server := inventoried(t)
	client := p.client(&p.operator)
	require.Empty(t, p.call(client, "POST", "/1.0/provisioning/servers/:adopt", fmt.Sprintf(`{"name":"sim","trust_token":%q}`, server.TrustToken("x"))).Error)
	p.until(client, "/1.0/inventory/status", `"following":true`)
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
	a := p.call(client, "POST", "/1.0/provisioning/clusters/sim/:resync-inventory", "")
	require.Equal(t, http.StatusBadGateway, a.ErrorCode)
	require.Contains(t, a.Error, "could not be read")
}
