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

// MaxObjectSize bounds what is kept of an object, in bytes. Of a larger one, the largest
// members are left out, until it fits; Object.Truncated names them.
const MaxObjectSize = 512 << 10

// errNames: a name of an object is longer than MaxNameLength.
var errNames = errors.New("a name is too long")

// errUnmanaged: a network that Incus does not manage is an interface of a server's hardware.
var errUnmanaged = errors.New("not a managed network")

// member of a document.
type member struct {
	key   string
	value []byte
}

// size is what a member takes in a row, where some characters are written as six.
func (m *member) size() int {
	escaped := 0
	for _, c := range m.value {
		if c == '<' || c == '>' || c == '&' || c == 0xe2 { // the last begins the line separators
			escaped++
		}
	}
	return len(m.key) + len(m.value) + 5*escaped + 4
}

// scratch is memory for one object at a time: most of those that are listed are as they are known, and leave nothing
// behind.
type scratch struct{ values, object []byte }

// normalize makes a row of what Incus tells of an object: always the same for the same
// object, whether it was listed or asked for, and without what changes all the time. what
// says where it was found: its kind, its parent, and its project if it doesn't say so itself. The row's object lies
// in the scratch, and is overwritten by the next one.
func normalize(what ref, data []byte, keepSecrets bool, s *scratch) (*row, error) {
	s.values = s.values[:0]
	out := &row{Kind: what.kind, Parent: what.parent}
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
		up.see(name, value)
		var into *string
		switch name {
		case "name":
			into = &out.Name
		case "project":
			into = &out.Project
		case "location":
			into = &out.Location
		case "type":
			if what.kind == KindStorageVolume {
				into = &out.Type
			}
		case "server_name":
			if what.kind == KindClusterMember {
				into = &out.Name
			}
		case "fingerprint":
			if what.kind == KindImage {
				into = &out.Name
			}
		case "listen_address":
			if what.kind == KindNetworkForward || what.kind == KindNetworkLoadBalancer {
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
		if what.kind == KindClusterMember && name == "message" {
			return // it counts the seconds since a heartbeat; the status says the rest
		}
		if many = many || len(members) == MaxMembers; many {
			return
		}
		value, failed = normalMember(name, value, keepSecrets, s)
		members = append(members, member{name, value})
	})
	switch {
	case err != nil || failed != nil:
		return nil, fmt.Errorf("%s: %w", what.kind, errors.Join(err, failed))
	case out.Name == "":
		return nil, fmt.Errorf("%s without a name", what.kind)
	case !out.named():
		return nil, fmt.Errorf("%s: %w", what.kind, errNames)
	case what.kind == KindNetwork && !managed:
		return nil, errUnmanaged
	}
	info := what.kind.info()
	if !info.project {
		out.Project = ""
	} else if out.Project == "" { // not all kinds say it, and not always
		out.Project = what.project
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
	out.madeUp = what.kind == KindInstance && up.is()
	return out, nil
}

// named reports whether none of a row's names is longer than MaxNameLength.
func (r *row) named() bool {
	return max(len(r.Name), len(r.Project), len(r.Parent), len(r.Type), len(r.Location)) <= MaxNameLength
}

// normalMember returns a member's value without white space, secrets, and what changes all the time.
func normalMember(name string, value []byte, keepSecrets bool, s *scratch) ([]byte, error) {
	switch name {
	case "used_by", "locations", "roles", "groups": // sets, in an order that means nothing
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

// isSecret reports whether a configuration key's value is a secret, wherever it lies: passwords
// of BGP peers, keys of DNS zones, keys and passwords of integrations and storage; credentials that
// are handed to an instance, what it is set up with, and variables of its environment by their names.
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

// normalState keeps of an instance's state what stays while nothing happens to it.
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
		// Other kinds have states that are words.
		out, _, err := jsonfilter.Append(nil, value, func([]byte) bool { return false })
		return out, err
	}
	return json.Marshal(state)
}

// assemble appends members, put together, without the largest as long as that is over the limit.
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
