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

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
)

// ClusterState reads whether the server is a member of an Incus cluster, and that cluster's members. It
// is a method of cluster.Incus.
//
// Reading methods of the Client have these errors: opscenter.ErrUnreachable if the server did not answer,
// opscenter.ErrRefused if it answered with an error, opscenter.ErrNotApplicable if it lacks the API.
// Errors of writing methods are those of Update.
func (c *Client) ClusterState(ctx context.Context, target opscenter.Target) (cluster.State, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return cluster.State{}, readError(err)
	}
	state, err := clusterState(s)
	return state, readError(err)
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
		return out, fmt.Errorf("%w: the cluster's certificate is invalid: %v", errAnswer, err)
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
		out.Members = append(out.Members, cluster.Member{Name: truncate.Text(m.Name, maxText), Status: truncate.Text(m.Status, maxText), URL: truncate.Text(m.URL, maxText)})
	}
	return out, nil
}

// SetClusterAddress sets the address at which the other members reach the server, as host:port. It changes
// nothing if the server has that address already. It is a method of cluster.Incus.
func (c *Client) SetClusterAddress(ctx context.Context, target opscenter.Target, address string) error {
	s, err := c.session(ctx, target)
	if err != nil {
		return readError(err)
	}
	var server struct {
		Config map[string]any `json:"config"`
	}
	if err := s.get("/1.0", &server); err != nil {
		return readError(err)
	}
	change := map[string]any{}
	if have, _ := server.Config["core.https_address"].(string); have != address && !listensEverywhere(have) {
		change["core.https_address"] = address
	}
	if have, _ := server.Config["cluster.https_address"].(string); have != address {
		change["cluster.https_address"] = address
	}
	if len(change) == 0 {
		return nil
	}
	_, err = s.call(http.MethodPatch, "/1.0", map[string]any{"config": change})
	return commandError(err)
}

// listensEverywhere reports whether a listen address means all addresses of a server, such as ":8443".
// SetClusterAddress keeps such an address, because clients may use any of the server's addresses.
func listensEverywhere(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		host = strings.Trim(listen, "[]")
	}
	return listen != "" && (host == "" || host == "::" || host == "0.0.0.0")
}

// Bootstrap makes the server the first member of a new cluster, under the given member name, and returns
// the cluster's certificate. The server presents the new certificate from then on. So Bootstrap reads it
// over the existing connection, on which the server presented its own certificate. It is a method of
// cluster.Incus.
func (c *Client) Bootstrap(ctx context.Context, target opscenter.Target, name string) (*x509.Certificate, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return nil, readError(err)
	}
	answer, err := s.call(http.MethodPut, "/1.0/cluster", api.ClusterPut{Cluster: api.Cluster{ServerName: name, Enabled: true}})
	if err != nil {
		return nil, commandError(err)
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

// JoinToken returns a token with which a server can join the cluster, under the given member name. It
// invalidates older tokens for the same name. It is a method of cluster.Incus.
func (c *Client) JoinToken(ctx context.Context, target opscenter.Target, name string) (string, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return "", readError(err)
	}
	answer, err := s.call(http.MethodPost, "/1.0/cluster/members", api.ClusterMembersPost{ServerName: name})
	if err != nil {
		return "", commandError(err)
	}
	op, err := answer.MetadataAsOperation()
	if err != nil {
		return "", readError(err)
	}
	token, err := op.ToClusterJoinToken()
	if err != nil {
		return "", readError(err)
	}
	return token.String(), nil
}

// Join makes the server a member of a cluster, and returns when it is one. It is a method of cluster.Incus.
func (c *Client) Join(ctx context.Context, target opscenter.Target, join cluster.Join) error {
	s, err := c.session(ctx, target)
	if err != nil {
		return readError(err)
	}
	put := api.ClusterPut{Cluster: api.Cluster{ServerName: join.Name, Enabled: true}, ServerAddress: join.Address,
		ClusterAddress: join.ClusterAddress, ClusterCertificate: opscenter.EncodeCertificate(join.Certificate), ClusterToken: join.Token}
	for _, m := range join.Config {
		put.MemberConfig = append(put.MemberConfig, api.ClusterMemberConfigKey{Entity: m.Entity, Name: m.Name, Key: m.Key, Value: m.Value})
	}
	answer, err := s.call(http.MethodPut, "/1.0/cluster", put)
	if err != nil {
		return commandError(err)
	}
	return c.wait(ctx, target, answer.Operation)
}

// Contents describes the objects that a server would lose by joining a cluster, as the cluster's database
// replaces its own: instances, storage pools, managed networks, projects. It names one of each kind. It is
// empty if the server has none. It is a method of cluster.Incus.
func (c *Client) Contents(ctx context.Context, target opscenter.Target) (string, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return "", readError(err)
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
			return "", readError(err)
		}
		for _, path := range list {
			if path != kind.but {
				found = append(found, fmt.Sprintf("%s (%s)", kind.name, truncate.Text(path[strings.LastIndex(path, "/")+1:], maxText)))
				break
			}
		}
	}
	return strings.Join(found, ", "), nil
}

// MemberConfig returns the settings that each joining member has to give itself, such as the source of a
// storage pool. It is a method of cluster.Incus.
func (c *Client) MemberConfig(ctx context.Context, target opscenter.Target) ([]cluster.Config, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return nil, readError(err)
	}
	var answer api.Cluster
	if err := s.get("/1.0/cluster", &answer); err != nil {
		return nil, readError(err)
	}
	var out []cluster.Config
	for _, m := range answer.MemberConfig {
		out = append(out, cluster.Config{Entity: m.Entity, Name: m.Name, Key: m.Key, Value: m.Value})
	}
	return out, nil
}

// InstancesOn returns the name of an instance on a member of the server's cluster, or "" if the member has
// none. It is a method of cluster.Incus.
func (c *Client) InstancesOn(ctx context.Context, target opscenter.Target, member string) (string, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return "", readError(err)
	}
	var all []struct {
		Name     string `json:"name"`
		Location string `json:"location"`
	}
	if err := s.get("/1.0/instances?recursion=1&all-projects=true&filter="+url.QueryEscape("location eq "+member), &all); err != nil {
		return "", readError(err)
	}
	for _, i := range all {
		if i.Location == member {
			return truncate.Text(i.Name, maxText), nil
		}
	}
	return "", nil
}

// RemoveMember removes a member from the server's cluster. The member must have no instances. It is no
// error if there is no such member. With force, Incus removes the member without contacting or resetting
// it, and its instances are lost. It is a method of cluster.Incus.
func (c *Client) RemoveMember(ctx context.Context, target opscenter.Target, name string, force bool) error {
	s, err := c.session(ctx, target)
	if err != nil {
		return readError(err)
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
		return commandError(err)
	case answer.Operation != "":
		return c.wait(ctx, target, answer.Operation)
	}
	return nil
}
