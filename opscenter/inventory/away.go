package inventory

import (
	"bytes"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
)

// madeUp recognises an entry that Incus makes up in a list of instances: for an instance whose member does not
// answer, and for one that can't be read (resultErrListAppend in cmd/incusd/instances_get.go). The entry has a name, a
// project, a location and status code 112. All other members are zero. A real instance in error has a creation time and
// a configuration. Incus makes up no objects of other kinds: those come from its database.
type madeUp struct{ code, created, configured bool }

// observe takes in one member of the entry.
func (m *madeUp) observe(name string, value []byte) {
	switch name {
	case "status_code":
		m.code = string(value) == "112"
	case "created_at":
		m.created = !bytes.HasPrefix(value, []byte(`"0001-`))
	case "config":
		m.configured = string(value) != "null"
	}
}

func (m *madeUp) is() bool { return m.code && !m.created && !m.configured }

// madeUpMember reports whether a member of a made-up entry has a real value.
func madeUpMember(name string) bool {
	return name == "status" || name == "status_code" || name == "location"
}

// mergeMadeUp merges the row of a made-up entry into the known row of the instance: only status and location change.
func (r *row) mergeMadeUp(old *row) (*row, error) {
	out := *r
	out.Away = r.sum()
	if old == nil || old.Stub {
		out.Stub = true
		return &out, nil
	}
	told := map[string][]byte{}
	if err := jsonfilter.Members(r.Object, func(key, value []byte) { told[string(key)] = value }); err != nil {
		return nil, err
	}
	var members []member
	err := jsonfilter.Members(old.Object, func(key, value []byte) {
		name := string(key)
		if now, ok := told[name]; ok && madeUpMember(name) {
			value = now
		}
		members = append(members, member{name, value})
	})
	if err != nil {
		return nil, err
	}
	out.Object, _ = assemble(nil, members)
	out.Truncated = old.Truncated
	return &out, nil
}
