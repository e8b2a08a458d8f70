package inventory

import (
	"bytes"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
)

// madeUp recognises what Incus makes up in a list for an instance of which it can't be told more:
// that of a member that does not answer, and one that can't be read (resultErrListAppend in
// cmd/incusd/instances_get.go). It has a name, a project, a location and status code 112, and zero
// values for all else; an instance that is in error has the day it was made, and a configuration.
// Incus makes up nothing of the other kinds: those come from its database.
type madeUp struct{ code, created, configured bool }

func (m *madeUp) see(name string, value []byte) {
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

// toldOfAway is what an answer that was made up does tell.
func toldOfAway(name string) bool {
	return name == "status" || name == "status_code" || name == "location"
}

// over returns the row of an answer that was made up over what is known of the instance: only its
// status and location are others.
func (r *row) over(old *row) (*row, error) {
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
		if now, ok := told[name]; ok && toldOfAway(name) {
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
