package incusos

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
)

// ClusterState reads whether the server is a member of an Incus cluster, and of which. It
// implements, with the methods below, cluster.Incus.
func (c *Client) ClusterState(ctx context.Context, target opscenter.Target) (cluster.State, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return cluster.State{}, reached(err)
	}
	state, err := clusterState(s)
	return state, reached(err)
}

func (c *Client) session(ctx context.Context, target opscenter.Target) (session, error) {
	connection, err := c.Connect(ctx, target)
	return session{connection}, err
}

func clusterState(s session) (out cluster.State, err error) {
	var server struct {
		Auth        string         `json:"auth"`
		Config      map[string]any `json:"config"`
		Environment struct {
			Certificate     string `json:"certificate"`
			ServerName      string `json:"server_name"`
			ServerClustered bool   `json:"server_clustered"`
		} `json:"environment"`
	}
	if err := s.get("/1.0", &server); err != nil {
		return out, err
	}
	if server.Auth != "trusted" {
		return out, errUntrusted
	}
	out.Address, _ = server.Config["cluster.https_address"].(string)
	if !server.Environment.ServerClustered {
		return out, nil
	}
	out.Name = server.Environment.ServerName
	if out.Certificate, err = opscenter.ParseCertificate(server.Environment.Certificate); err != nil {
		return out, fmt.Errorf("%w: the cluster's certificate: %v", errAnswer, err)
	}
	var members []struct {
		Name   string `json:"server_name"`
		Status string `json:"status"`
		URL    string `json:"url"`
	}
	if err := s.get("/1.0/cluster/members?recursion=1", &members); err != nil {
		return out, err
	}
	for _, m := range members {
		out.Members = append(out.Members, cluster.Member{Name: limited(m.Name, maxText), Status: limited(m.Status, maxText), URL: limited(m.URL, maxText)})
	}
	return out, nil
}

// SetClusterAddress sets the address the server is reached at by the other members, host:port.
// One it has already is left as it is.
func (c *Client) SetClusterAddress(ctx context.Context, target opscenter.Target, address string) error {
	s, err := c.session(ctx, target)
	if err != nil {
		return reached(err)
	}
	var server struct {
		Config map[string]any `json:"config"`
	}
	if err := s.get("/1.0", &server); err != nil {
		return reached(err)
	}
	change := map[string]any{}
	if have, _ := server.Config["core.https_address"].(string); have != address && !covers(have) {
		change["core.https_address"] = address
	}
	if have, _ := server.Config["cluster.https_address"].(string); have != address {
		change["cluster.https_address"] = address
	}
	if len(change) == 0 {
		return nil
	}
	_, err = s.call(http.MethodPatch, "/1.0", map[string]any{"config": change})
	return unlessRefused(err)
}

// covers reports whether a server listens at all its addresses, as ":8443".
// Such a one is never narrowed: others may reach the server elsewhere.
func covers(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		host = strings.Trim(listen, "[]")
	}
	return listen != "" && (host == "" || host == "::" || host == "0.0.0.0")
}

// Bootstrap makes the server the first member, by that name, of a cluster, and returns the
// cluster's certificate. It is read over the connection that was there before, on which the
// server has proved who it is: from then on it presents the cluster's.
func (c *Client) Bootstrap(ctx context.Context, target opscenter.Target, name string) (*x509.Certificate, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return nil, reached(err)
	}
	answer, err := s.call(http.MethodPut, "/1.0/cluster", api.ClusterPut{Cluster: api.Cluster{ServerName: name, Enabled: true}})
	if err != nil {
		return nil, unlessRefused(err)
	}
	var op api.Operation
	if answer.Operation != "" {
		if err := s.get(fmt.Sprintf("%s/wait?timeout=%d", answer.Operation, max(1, int(c.options.Timeout.Seconds()/2))), &op); err != nil {
			return nil, fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
		}
		if op.StatusCode.IsFinal() && op.StatusCode != api.Success {
			return nil, operationError(&op)
		}
	}
	for {
		state, err := clusterState(s)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, err)
		}
		if state.Name != "" {
			return state.Certificate, nil
		}
		select {
		case <-time.After(waitRetry):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, ctx.Err())
		}
	}
}

// JoinToken returns a token by which a server becomes a member by that name. An older one for
// the same name is good for nothing any more.
func (c *Client) JoinToken(ctx context.Context, target opscenter.Target, name string) (string, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return "", reached(err)
	}
	answer, err := s.call(http.MethodPost, "/1.0/cluster/members", api.ClusterMembersPost{ServerName: name})
	if err != nil {
		return "", unlessRefused(err)
	}
	op, err := answer.MetadataAsOperation()
	if err != nil {
		return "", reached(err)
	}
	token, err := op.ToClusterJoinToken()
	if err != nil {
		return "", reached(err)
	}
	return token.String(), nil
}

// Join makes the server a member of a cluster, and returns when it is.
func (c *Client) Join(ctx context.Context, target opscenter.Target, join cluster.Join) error {
	s, err := c.session(ctx, target)
	if err != nil {
		return reached(err)
	}
	put := api.ClusterPut{Cluster: api.Cluster{ServerName: join.Name, Enabled: true}, ServerAddress: join.Address,
		ClusterAddress: join.ClusterAddress, ClusterCertificate: opscenter.EncodeCertificate(join.Certificate), ClusterToken: join.Token}
	for _, m := range join.Config {
		put.MemberConfig = append(put.MemberConfig, api.ClusterMemberConfigKey{Entity: m.Entity, Name: m.Name, Key: m.Key, Value: m.Value})
	}
	answer, err := s.call(http.MethodPut, "/1.0/cluster", put)
	if err != nil {
		return unlessRefused(err)
	}
	return c.wait(ctx, target, answer.Operation)
}

// Contents says what a server has that would be lost if it joined a cluster, whose database
// takes the place of its own: instances, storage pools, managed networks, projects. Empty: nothing.
func (c *Client) Contents(ctx context.Context, target opscenter.Target) (string, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return "", reached(err)
	}
	var found []string
	for _, kind := range []struct{ path, name, but string }{
		{"/1.0/instances?all-projects=true", "instances", ""}, {"/1.0/storage-pools", "storage pools", ""},
		{"/1.0/networks", "networks", ""}, {"/1.0/projects", "projects", "/1.0/projects/default"},
	} {
		var list []string
		if kind.name == "networks" {
			var networks []struct {
				Name    string `json:"name"`
				Managed bool   `json:"managed"`
			}
			err = s.get(kind.path+"?recursion=1", &networks)
			for _, n := range networks {
				if n.Managed {
					list = append(list, n.Name)
				}
			}
		} else {
			err = s.get(kind.path, &list)
		}
		if isStatus(err, http.StatusNotFound) {
			continue
		}
		if err != nil {
			return "", reached(err)
		}
		for _, path := range list {
			if path != kind.but {
				found = append(found, fmt.Sprintf("%s (%s)", kind.name, limited(path[strings.LastIndex(path, "/")+1:], maxText)))
				break
			}
		}
	}
	return strings.Join(found, ", "), nil
}

// MemberConfig returns what a joining member has to configure for itself, as the source of a
// storage pool.
func (c *Client) MemberConfig(ctx context.Context, target opscenter.Target) ([]cluster.Config, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return nil, reached(err)
	}
	var answer api.Cluster
	if err := s.get("/1.0/cluster", &answer); err != nil {
		return nil, reached(err)
	}
	var out []cluster.Config
	for _, m := range answer.MemberConfig {
		out = append(out, cluster.Config{Entity: m.Entity, Name: m.Name, Key: m.Key, Value: m.Value})
	}
	return out, nil
}

// InstancesOn names an instance that is on a member of the server's cluster; empty: there is none.
func (c *Client) InstancesOn(ctx context.Context, target opscenter.Target, member string) (string, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return "", reached(err)
	}
	var all []struct {
		Name     string `json:"name"`
		Location string `json:"location"`
	}
	if err := s.get("/1.0/instances?recursion=1&all-projects=true&filter="+url.QueryEscape("location eq "+member), &all); err != nil {
		return "", reached(err)
	}
	for _, i := range all {
		if i.Location == member {
			return limited(i.Name, maxText), nil
		}
	}
	return "", nil
}

// RemoveMember takes a member, which must have no instances, out of the cluster the server is
// a member of. One that is none is no error. force is Incus's own: the member is not asked, nor
// reset, and what was on it is lost.
func (c *Client) RemoveMember(ctx context.Context, target opscenter.Target, name string, force bool) error {
	s, err := c.session(ctx, target)
	if err != nil {
		return reached(err)
	}
	path := "/1.0/cluster/members/" + url.PathEscape(name)
	if force {
		path += "?force=1"
	}
	answer, err := s.call(http.MethodDelete, path, nil)
	switch {
	case isStatus(err, http.StatusNotFound):
		return nil
	case err != nil:
		return unlessRefused(err)
	case answer.Operation != "":
		return c.wait(ctx, target, answer.Operation)
	}
	return nil
}
