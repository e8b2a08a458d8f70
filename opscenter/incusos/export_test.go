package incusos

import (
	"bytes"
	"context"
	"encoding/json"

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

// ParseTrustToken reads a trust token.
var ParseTrustToken = parseTrustToken

// ReadList reads an answer that is a list, no entry of which is longer than the limit.
func ReadList(answer []byte, limit int64, use func(json.RawMessage) error) error {
	return readList(bytes.NewReader(answer), 200, limit, use)
}

// Adoption makes an adoption out of what a cluster says of itself.
func Adoption(server, members, certificates []byte, target opscenter.Target, options AdoptOptions) (*opscenter.Adoption, error) {
	f := &found{}
	if json.Unmarshal(server, f) != nil || json.Unmarshal(members, &f.members) != nil || json.Unmarshal(certificates, &f.certificates) != nil {
		return nil, errAnswer
	}
	if err := f.index(); err != nil {
		return nil, err
	}
	return f.adoption(target, options, func(string, string) bool { return false })
}
