package seed

import (
	"bytes"
	"encoding/json"

	"github.com/lxc/incus/v6/shared/api"
)

// Incus is how Incus begins. Without the file it applies its defaults: a storage pool and a bridge.
type Incus struct {
	Version Version `json:"version"`
	// ApplyDefaults makes a storage pool and a bridge. A server that has them can't join a cluster.
	ApplyDefaults bool     `json:"apply_defaults"`
	Preseed       *Preseed `json:"preseed,omitempty"`
}

// Preseed is what Incus is told as by "incus admin init --preseed". core.https_address is :8443 unless it is given.
type Preseed api.InitPreseed

// MarshalJSON leaves out what is null: a server of an older release does not know all of it.
func (p Preseed) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(api.InitPreseed(p))
	if err != nil {
		return nil, err
	}
	var all any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&all); err != nil {
		return nil, err
	}
	return json.Marshal(set(all))
}

// set returns a value without the members that are null.
func set(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			if member == nil {
				delete(value, name)
			} else {
				value[name] = set(member)
			}
		}
	case []any:
		for i := range value {
			value[i] = set(value[i])
		}
	}
	return value
}

func (i *Incus) validate(v *validation) {
	if i.ApplyDefaults && v.rules.JoinsCluster {
		v.add("apply_defaults", "a server that is to join a cluster must not have the pool and the bridge that it makes")
	}
	if i.Preseed != nil && i.Preseed.Cluster != nil {
		v.add("preseed.cluster", "it can't be given here: the control plane forms clusters")
	}
}
