package webui

import (
	"net/url"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/client"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// clustersPage is the data of the table of clusters.
type clustersPage struct {
	paged[client.Cluster]
}

func loadClusters(v *visit) (any, error) {
	list, err := loadPage[client.Cluster](v, client.Path("provisioning/clusters"), url.Values{})
	return &clustersPage{list}, err
}

// clusterPage is the data of the page of a cluster.
type clusterPage struct {
	client.Cluster
	Members []client.Server
	Objects client.ObjectCounts
}

func (p *clusterPage) title() string { return p.Name }

// Rollout is the UUID of the rollout that is under way on the cluster; empty: there is none.
func (p *clusterPage) Rollout() string {
	return strings.TrimPrefix(p.UpdateStatus.InProgress.Rollout, "/1.0/provisioning/rollouts/")
}

func loadCluster(v *visit) (any, error) {
	name := v.r.PathValue("name")
	found, err := client.Get[client.Cluster](v.ctx(), v.api, client.Path("provisioning/clusters", name), nil)
	if err != nil {
		return nil, err
	}
	p := &clusterPage{Cluster: found}
	if p.Members, err = listOf[client.Server](v, client.Path("provisioning/servers"), url.Values{"cluster": {name}, "facts": {"0"}, "limit": {pageSize}}); err != nil {
		return nil, err
	}
	p.Objects, err = client.Get[client.ObjectCounts](v.ctx(), v.api, client.Path("inventory/counts"), url.Values{"cluster": {name}})
	return p, optional(err)
}

// rolloutsPage is the data of the list of rollouts.
type rolloutsPage struct {
	paged[client.Rollout]
}

func loadRollouts(v *visit) (any, error) {
	list, err := loadPage[client.Rollout](v, client.Path("provisioning/rollouts"), url.Values{})
	return &rolloutsPage{list}, err
}

// rolloutPage is the data of the page of a rollout.
type rolloutPage struct {
	client.Rollout
	paged[client.Unit]
	Over bool
	// Ahead are the steps that are left, as they will probably go; nil: they can't be told.
	Ahead *rolling.Ahead
}

func (p *rolloutPage) title() string {
	return "Rollout of " + p.StartedAt.UTC().Format("2006-01-02 15:04") + " UTC"
}

func loadRollout(v *visit) (any, error) {
	id := v.r.PathValue("uuid")
	found, err := client.Get[client.Rollout](v.ctx(), v.api, client.Path("provisioning/rollouts", id), nil)
	if err != nil {
		return nil, err
	}
	p := &rolloutPage{Rollout: found, Over: !found.EndedAt.IsZero()}
	if p.paged, err = loadPage[client.Unit](v, client.Path("provisioning/rollouts", id, "units"), url.Values{}); err != nil {
		return nil, err
	}
	if !p.Over {
		if ahead, err := client.Get[*rolling.Ahead](v.ctx(), v.api, client.Path("provisioning/rollouts", id, "plan"), nil); err == nil {
			p.Ahead = ahead
		}
	}
	return p, nil
}

// newRolloutPage is the data of the form that plans a rollout.
type newRolloutPage struct {
	Form     url.Values
	Channels []client.Channel
}

func loadNewRollout(v *visit) (any, error) {
	channels, err := listOf[client.Channel](v, client.Path("provisioning/channels"), nil)
	form := v.r.URL.Query()
	if len(form) == 0 {
		form.Set("all", "1")
	}
	return &newRolloutPage{Form: form, Channels: channels}, err
}
