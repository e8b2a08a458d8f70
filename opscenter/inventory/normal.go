package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// MaxObjectSize bounds an object, in bytes. The largest members of a larger object are left out until it fits.
// Object.Truncated names them.
const MaxObjectSize = 512 << 10

// errNames: a name of an object is longer than MaxNameLength.
var errNames = errors.New("a name is too long")

// errUnmanaged: Incus does not manage the network; it is a hardware interface of a server.
var errUnmanaged = errors.New("not a managed network")

// member is one member of a JSON object.
type member struct {
	key   string
	value []byte
}

// size bounds the bytes that a member takes in a row. Some characters are written as six.
func (m *member) size() int {
	escaped := 0
	for _, c := range m.value {
		if c == '<' || c == '>' || c == '&' || c == 0xe2 { // 0xe2 begins the line separators
			escaped++
		}
	}
	return len(m.key) + len(m.value) + 5*escaped + 4
}

// scratch is reusable memory for one object. Most listed objects are unchanged, so they need no memory of their own.
type scratch struct{ values, object []byte }

// normalize turns an object of Incus into a row. The same object gives the same row, from a list or by itself.
// Members that change all the time are left out. of gives the kind, the parent, and the project if the object does not
// name one. The row's object lies in the scratch: the next call overwrites it.
func normalize(of ref, data []byte, keepSecrets bool, s *scratch) (*row, error) {
	s.values = s.values[:0]
	out := &row{Kind: of.kind, Parent: of.parent}
	var members []member
	var failed error
	managed := true
	many := false
	up := madeUp{}
	err := jsonfilter.Members(data, func(key, value []byte) {
		if failed != nil {
			return
		}
		name := string(key)
		up.observe(name, value)
		var into *string
		switch name {
		case "name":
			into = &out.Name
		case "project":
			into = &out.Project
		case "location":
			into = &out.Location
		case "type":
			if of.kind == KindStorageVolume {
				into = &out.Type
			}
		case "server_name":
			if of.kind == KindClusterMember {
				into = &out.Name
			}
		case "fingerprint":
			if of.kind == KindImage {
				into = &out.Name
			}
		case "listen_address":
			if of.kind == KindNetworkForward || of.kind == KindNetworkLoadBalancer {
				into = &out.Name
			}
		case "managed":
			managed = string(value) != "false"
		}
		if into != nil {
			if err := json.Unmarshal(value, into); err != nil {
				failed = fmt.Errorf("member %s: %w", name, err)
				return
			}
		}
		if of.kind == KindClusterMember && name == "message" {
			return // it counts the seconds since a heartbeat; the status has the rest
		}
		if many = many || len(members) == MaxMembers; many {
			return
		}
		value, failed = normalMember(name, value, keepSecrets, s)
		members = append(members, member{name, value})
	})
	switch {
	case err != nil || failed != nil:
		return nil, fmt.Errorf("%s: %w", of.kind, errors.Join(err, failed))
	case out.Name == "":
		return nil, fmt.Errorf("%s without a name", of.kind)
	case !out.named():
		return nil, fmt.Errorf("%s: %w", of.kind, errNames)
	case of.kind == KindNetwork && !managed:
		return nil, errUnmanaged
	}
	info := of.kind.info()
	if !info.project {
		out.Project = ""
	} else if out.Project == "" { // some kinds do not always name their project
		out.Project = of.project
	}
	if out.Location == "none" || !info.located {
		out.Location = ""
	}
	if info.project && !slices.ContainsFunc(members, func(m member) bool { return m.key == "project" && string(m.value) != `""` }) {
		members = slices.DeleteFunc(members, func(m member) bool { return m.key == "project" })
		project, _ := json.Marshal(out.Project)
		members = append(members, member{"project", project})
	}
	if many {
		out = out.nameOnly()
	} else {
		out.Object, out.Truncated = assemble(s.object[:0], members)
		s.object = out.Object
	}
	out.madeUp = of.kind == KindInstance && up.is()
	return out, nil
}

// named reports whether all names of a row are within MaxNameLength.
func (r *row) named() bool {
	return max(len(r.Name), len(r.Project), len(r.Parent), len(r.Type), len(r.Location)) <= MaxNameLength
}

// normalMember returns a member's value without white space, without secrets, and without parts that change all the time.
func normalMember(name string, value []byte, keepSecrets bool, s *scratch) ([]byte, error) {
	switch name {
	case "used_by", "locations", "roles", "groups": // sets: their order has no meaning
		var list []string
		if json.Unmarshal(value, &list) == nil && list != nil {
			slices.Sort(list)
			return json.Marshal(list)
		}
	case "state":
		return normalState(value)
	}
	drop := isSecret
	if keepSecrets {
		drop = func([]byte) bool { return false }
	}
	begin := len(s.values)
	out, _, err := jsonfilter.Append(s.values, value, drop)
	s.values = out
	return out[begin:len(out):len(out)], err
}

// isSecret reports whether the value of a configuration key is a secret, at any depth. Secrets are passwords of BGP
// peers, keys of DNS zones, and keys and passwords of integrations and storage. Secrets of an instance are its
// credentials, its cloud-init data, and environment variables with the name of a secret.
func isSecret(key []byte) bool {
	name := string(key)
	for _, suffix := range []string{".password", ".client_key", ".api_key", ".secret"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	prefix, rest, _ := strings.Cut(name, ".")
	switch prefix {
	case "peers":
		return strings.HasSuffix(rest, ".key")
	case "systemd":
		return strings.HasPrefix(rest, "credential.") || strings.HasPrefix(rest, "credential-binary.")
	case "cloud-init", "user":
		return rest == "user-data" || rest == "vendor-data"
	case "environment":
		return facts.IsSecretName(rest)
	}
	return false
}

// normalState keeps the members of an instance's state that are constant while the instance runs undisturbed.
func normalState(value []byte) ([]byte, error) {
	var state *struct {
		Status     json.RawMessage `json:"status,omitempty"`
		StatusCode json.RawMessage `json:"status_code,omitempty"`
		StartedAt  json.RawMessage `json:"started_at,omitempty"`
		OSInfo     json.RawMessage `json:"os_info,omitempty"`
		Network    map[string]struct {
			Addresses json.RawMessage `json:"addresses,omitempty"`
			Hwaddr    json.RawMessage `json:"hwaddr,omitempty"`
			HostName  json.RawMessage `json:"host_name,omitempty"`
			MTU       json.RawMessage `json:"mtu,omitempty"`
			State     json.RawMessage `json:"state,omitempty"`
			Type      json.RawMessage `json:"type,omitempty"`
		} `json:"network,omitempty"`
	}
	if err := json.Unmarshal(value, &state); err != nil {
		// The state of other kinds is a word.
		out, _, err := jsonfilter.Append(nil, value, func([]byte) bool { return false })
		return out, err
	}
	return json.Marshal(state)
}

// assemble appends the JSON object of the members to out. It leaves out the largest members until MaxObjectSize fits.
func assemble(out []byte, members []member) (_ json.RawMessage, truncated []string) {
	size := 2
	for _, m := range members {
		size += m.size()
	}
	if size > MaxObjectSize {
		largest := slices.Clone(members)
		slices.SortStableFunc(largest, func(a, b member) int { return b.size() - a.size() })
		gone := map[string]bool{}
		for _, m := range largest {
			if size <= MaxObjectSize {
				break
			}
			truncated, gone[m.key], size = append(truncated, m.key), true, size-m.size()
		}
		members = slices.DeleteFunc(members, func(m member) bool { return gone[m.key] })
	}
	out = append(slices.Grow(out, size), '{')
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		key, _ := json.Marshal(m.key)
		out = append(append(append(out, key...), ':'), m.value...)
	}
	return append(out, '}'), truncated
}
