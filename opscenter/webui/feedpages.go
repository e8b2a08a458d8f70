package webui

import (
	"slices"

	"github.com/opscenter-go/sdk/opscenter/client"
)

// updatesPage is the data of the page of releases and channels.
type updatesPage struct {
	Updates  []client.Update
	Channels []client.Channel
	Refresh  client.Refresh
}

func loadUpdates(v *visit) (any, error) {
	p := &updatesPage{}
	var err error
	if p.Updates, _, err = client.List[client.Update](v.ctx(), v.api, client.Path("provisioning/updates"), nil); err != nil {
		return nil, err
	}
	if p.Channels, err = listOf[client.Channel](v, client.Path("provisioning/channels"), nil); err != nil {
		return nil, err
	}
	p.Refresh, err = client.Get[client.Refresh](v.ctx(), v.api, client.Path("provisioning/updates/:refresh"), nil)
	return p, err
}

// updatePage is the data of the page of a release.
type updatePage struct {
	client.Update
	Channels  []followedChannel
	Changelog *client.Changelog
}

// followedChannel is a channel, with the number of servers that follow it.
type followedChannel struct {
	client.Channel
	Servers int
	Offers  bool // the release
}

func (p *updatePage) title() string { return "Release " + p.Version }

func loadUpdate(v *visit) (any, error) {
	id := v.r.PathValue("uuid")
	found, err := client.Get[client.Update](v.ctx(), v.api, client.Path("provisioning/updates", id), nil)
	if err != nil {
		return nil, err
	}
	p := &updatePage{Update: found}
	channels, err := listOf[client.Channel](v, client.Path("provisioning/channels"), nil)
	if err != nil {
		return nil, err
	}
	followers, err := v.followers()
	if err != nil {
		return nil, err
	}
	for _, c := range channels {
		p.Channels = append(p.Channels, followedChannel{c, followers[c.Name], slices.Contains(found.Channels, c.Name)})
	}
	if changelog, err := client.Get[client.Changelog](v.ctx(), v.api, client.Path("provisioning/updates", id, "changelog"), nil); err == nil {
		p.Changelog = &changelog
	}
	return p, nil
}

// followers counts the servers that follow each channel.
func (v *visit) followers() (map[string]int, error) {
	run, release, err := v.h.fleet.use(v.ctx())
	if err != nil {
		return nil, err
	}
	defer release()
	run.mu.Lock()
	defer run.mu.Unlock()
	out := map[string]int{}
	for _, t := range run.tiles {
		if t.in(&v.me.Scope) {
			out[t.channel]++
		}
	}
	return out, nil
}
