package inventory

import (
	"errors"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// unitInfo holds the current names of a unit and its servers.
type unitInfo struct {
	id      string
	name    string
	cluster bool
	servers map[string]string // names of the servers by those of the members; nil: not read so far
}

// names finds the names of units and servers in one snapshot.
type names struct {
	s     *opscenter.Snapshot
	known map[string]*unitInfo
	ids   map[string]string // names of clusters by ID; nil: not read so far
}

func newNames(s *opscenter.Snapshot) *names { return &names{s: s, known: map[string]*unitInfo{}} }

// unit returns a unit by its ID. Nil: it was removed.
func (n *names) unit(id string) (*unitInfo, error) {
	if found, there := n.known[id]; there {
		return found, nil
	}
	found, err := n.find(id)
	if err == nil {
		n.known[id] = found
	}
	return found, err
}

func (n *names) find(id string) (*unitInfo, error) {
	row, err := units.Find(n.s, storage.StringKey(id))
	if err != nil || row == nil {
		return nil, err
	}
	if !row.Cluster {
		server, err := n.s.ServerByID(id)
		if errors.Is(err, opscenter.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return &unitInfo{id: id, name: server.Name}, nil
	}
	if n.ids == nil {
		n.ids = map[string]string{}
		for c, err := range n.s.Clusters() {
			if err != nil {
				return nil, err
			}
			n.ids[c.ID] = c.Name
		}
	}
	if name := n.ids[id]; name != "" {
		return &unitInfo{id: id, name: name, cluster: true}, nil
	}
	return nil, nil
}

// server returns the name of the server on which an object is. Empty: it is on all servers of the unit.
func (n *names) server(u *unitInfo, r *row) (string, error) {
	location := r.Location
	if r.Kind == KindClusterMember {
		location = r.Name
	}
	switch {
	case !u.cluster && r.Kind.info().located:
		return u.name, nil
	case location == "":
		return "", nil
	}
	if u.servers == nil {
		if err := n.members(u); err != nil {
			return "", err
		}
	}
	if name := u.servers[location]; name != "" {
		return name, nil
	}
	return location, nil
}

// members reads the names of the servers of a cluster.
func (n *names) members(u *unitInfo) error {
	u.servers = map[string]string{}
	for s, err := range n.s.Servers(opscenter.ServerFilter{Cluster: u.name}) {
		if err != nil {
			return err
		}
		u.servers[s.State.MemberName] = s.Name
	}
	return nil
}

// named returns the units of that name: a cluster, a server in no cluster, or both.
func (n *names) named(name string) ([]*unitInfo, error) {
	var ids []string
	cluster, err := n.s.Cluster(name)
	if err != nil && !errors.Is(err, opscenter.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		ids = append(ids, cluster.ID)
	}
	server, err := n.s.Server(name)
	if err != nil && !errors.Is(err, opscenter.ErrNotFound) {
		return nil, err
	}
	if err == nil && server.Cluster == "" {
		ids = append(ids, server.ID)
	}
	var out []*unitInfo
	for _, id := range ids {
		u, err := n.unit(id)
		if err != nil {
			return nil, err
		}
		if u != nil {
			out = append(out, u)
		}
	}
	return out, nil
}
