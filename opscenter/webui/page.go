package webui

import (
	"net/http"
	"net/url"

	"github.com/opscenter-go/sdk/opscenter/client"
)

// page is a page that shows a part of the fleet.
type page struct {
	path     string // as of http.ServeMux, without the method
	title    string
	section  string // of the navigation
	template string
	load     func(*visit) (any, error)
}

// pages are all pages that show something. A test visits each.
var pages = []page{
	{"/{$}", "Fleet", "fleet", "fleet", loadFleet},
	{"/servers", "Servers", "servers", "servers", loadServers},
	{"/servers/{name}", "Server", "servers", "server", loadServer},
	{"/servers/{name}/network", "Network", "servers", "network", loadNetwork},
	{"/servers/{name}/changes/{uuid}", "Change", "servers", "change", loadChange},
	{"/clusters", "Clusters", "clusters", "clusters", loadClusters},
	{"/clusters/{name}", "Cluster", "clusters", "cluster", loadCluster},
	{"/rollouts", "Rollouts", "rollouts", "rollouts", loadRollouts},
	{"/rollouts/new", "New rollout", "rollouts", "newrollout", loadNewRollout},
	{"/rollouts/{uuid}", "Rollout", "rollouts", "rollout", loadRollout},
	{"/inventory", "Inventory", "inventory", "inventory", loadInventory},
	{"/inventory/{kind}/{uuid}", "Object", "inventory", "object", loadObject},
	{"/updates", "Updates", "updates", "updates", loadUpdates},
	{"/updates/{uuid}", "Update", "updates", "update", loadUpdate},
	{"/tokens", "Tokens and images", "tokens", "tokens", loadTokens},
	{"/tokens/{uuid}", "Token", "tokens", "token", loadToken},
	{"/events", "Events", "events", "events", loadEvents},
	{"/warnings", "Warnings", "warnings", "warnings", loadWarnings},
	{"/audit", "Audit log", "audit", "audit", loadAudit},
}

// titled is data with a title of its own.
type titled interface{ title() string }

// showPage answers with a page.
func (v *visit) showPage(p *page) {
	l := layout{Title: p.title, Section: p.section, Position: v.h.fleet.position()} // before the page is read
	data, err := p.load(v)
	if err != nil {
		v.failed(err)
		return
	}
	l.Data = data
	if t, ok := data.(titled); ok {
		l.Title = t.title()
	}
	v.show(http.StatusOK, p.template, l)
}

// pageSize is the number of rows in a table.
const pageSize = "100"

// paged is a page of a table.
type paged[T any] struct {
	Rows []T
	// First and Next are the URLs of the first page, if this one is another, and of the next one; empty: there is none.
	First, Next string
}

// loadPage loads a page of a list of the API. The cursor is that of the page's own URL.
func loadPage[T any](v *visit, path string, query url.Values) (out paged[T], err error) {
	query.Set("limit", pageSize)
	own := v.r.URL.Query()
	if cursor := own.Get("cursor"); cursor != "" {
		query.Set("cursor", cursor)
		out.First = ownURL(v.r, "cursor", "")
	}
	var next string
	out.Rows, next, err = client.List[T](v.ctx(), v.api, path, query)
	if next != "" {
		out.Next = ownURL(v.r, "cursor", next)
	}
	return out, err
}

// ownURL returns the URL of a request with another value of a parameter; empty: without it.
func ownURL(r *http.Request, name, value string) string {
	query := r.URL.Query()
	query.Del("done")
	query.Del(name)
	if value != "" {
		query.Set(name, value)
	}
	if len(query) == 0 {
		return r.URL.EscapedPath()
	}
	return r.URL.EscapedPath() + "?" + query.Encode()
}

// listOf loads a list, which is empty where the principal has no right to it or there is no such part.
func listOf[T any](v *visit, path string, query url.Values) ([]T, error) {
	list, _, err := client.List[T](v.ctx(), v.api, path, query)
	return list, optional(err)
}
