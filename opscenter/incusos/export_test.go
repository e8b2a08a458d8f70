package incusos

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/opscenter"
)

// ParseEvent parses a message of an event stream.
var ParseEvent = parseEvent

// IndexMembers validates a cluster with these members, and that many certificates.
func IndexMembers(members []string, certificates int) error {
	f := &selfDescription{certificates: make([]api.Certificate, certificates)}
	for _, name := range members {
		f.members = append(f.members, api.ClusterMember{ServerName: name})
	}
	return f.index()
}

// Limits of a cluster that can be adopted.
const (
	MaxMembers      = maxMembers
	MaxCertificates = maxCertificates
)

// RunningInstance returns an instance that runs on a cluster member.
func (c *Client) RunningInstance(ctx context.Context, target opscenter.Target) (string, error) {
	return c.runningInstance(ctx, target)
}

// ParseTrustToken parses a trust token.
var ParseTrustToken = parseTrustToken

// ReadList reads an answer that is a list. An entry over the limit is an error.
func ReadList(answer []byte, limit int64, use func(json.RawMessage) error) error {
	return readList(bytes.NewReader(answer), 200, limit, use)
}

// Adoption makes an adoption from the answers of a cluster.
func Adoption(server, members, certificates []byte, target opscenter.Target, options AdoptOptions) (*opscenter.Adoption, error) {
	f := &selfDescription{}
	if json.Unmarshal(server, f) != nil || json.Unmarshal(members, &f.members) != nil || json.Unmarshal(certificates, &f.certificates) != nil {
		return nil, errAnswer
	}
	if err := f.index(); err != nil {
		return nil, err
	}
	return f.adoption(target, options, func(string, string) bool { return false })
}
