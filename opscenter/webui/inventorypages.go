package webui

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/client"
	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// kind is a kind of objects on the pages of the inventory.
type kind struct {
	Name, Plural, Title string
	Count               int
}

func kindsOf(counts client.ObjectCounts) (out []kind) {
	for _, k := range inventory.Kinds {
		out = append(out, kind{string(k), k.Plural(), strings.ReplaceAll(k.Plural(), "_", " "), counts.ByKind[string(k)]})
	}
	return out
}

// inventoryPage is the data of the search over all clusters.
type inventoryPage struct {
	paged[client.Object]
	Kinds           []kind
	Kind            string // the plural of the shown one
	Search, Cluster string
	Filter          string
	FilterError     string
	Total           int
}

func loadInventory(v *visit) (any, error) {
	own := v.r.URL.Query()
	p := &inventoryPage{Kind: own.Get("kind"), Search: strings.TrimSpace(own.Get("search")), Cluster: own.Get("cluster"), Filter: strings.TrimSpace(own.Get("filter"))}
	if p.Kind == "" {
		p.Kind = inventory.KindInstance.Plural()
	}
	query := url.Values{}
	for name, value := range map[string]string{"search": p.Search, "cluster": p.Cluster, "filter": p.Filter} {
		if value != "" {
			query.Set(name, value)
		}
	}
	counts, err := client.Get[client.ObjectCounts](v.ctx(), v.api, client.Path("inventory/counts"), query)
	if p.Filter != "" && client.StatusOf(err) == http.StatusBadRequest {
		p.FilterError, p.Kinds = capital(err.Error()), kindsOf(counts)
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	p.Kinds, p.Total = kindsOf(counts), counts.Total
	if !slices.ContainsFunc(p.Kinds, func(k kind) bool { return k.Plural == p.Kind }) {
		return nil, &client.Error{Status: http.StatusNotFound, Message: "there is no such kind of objects"}
	}
	p.paged, err = loadPage[client.Object](v, client.Path("inventory/"+p.Kind), query)
	return p, err
}

// objectPage is the data of the page of an object.
type objectPage struct {
	client.Object
	Kind    string // its plural
	Text    string
	History []client.ObjectChange
}

func (p *objectPage) title() string { return p.Name }

func loadObject(v *visit) (any, error) {
	plural, id := v.r.PathValue("kind"), v.r.PathValue("uuid")
	if !slices.ContainsFunc(inventory.Kinds, func(k inventory.Kind) bool { return k.Plural() == plural }) {
		return nil, &client.Error{Status: http.StatusNotFound, Message: "there is no such kind of objects"}
	}
	found, err := client.Get[client.Object](v.ctx(), v.api, client.Path("inventory/"+plural, id), nil)
	if err != nil {
		return nil, err
	}
	p := &objectPage{Object: found, Kind: plural, Text: indented(found.Object)}
	p.History, err = listOf[client.ObjectChange](v, client.Path("inventory/"+plural, id, "history"), nil)
	return p, err
}
