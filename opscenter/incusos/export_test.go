package incusos

import (
	"context"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/opscenter"
)

// ParseEvent reads a message of the stream of events.
var ParseEvent = parseEvent

// IndexFound is for tests of how much a cluster that is adopted may list.
func IndexFound(members []string, certificates int) error {
	f := &found{certificates: make([]api.Certificate, certificates)}
	for _, name := range members {
		f.members = append(f.members, api.ClusterMember{ServerName: name})
	}
	return f.index()
}

// Limits of the cluster that is adopted.
const (
	MaxMembers      = maxMembers
	MaxCertificates = maxCertificates
)

// Left is for tests of what counts as an instance that runs on an evacuated member.
func (c *Client) Left(ctx context.Context, target opscenter.Target) (string, error) {
	return c.left(ctx, target)
}
