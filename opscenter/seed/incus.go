package seed

import (
	"bytes"
	"encoding/json"

	"github.com/lxc/incus/v6/shared/api"
)

// Incus is the initial configuration of Incus. Without this file Incus creates its defaults: a storage pool and a bridge.
type Incus struct {
	Version Version `json:"version"`
	// ApplyDefaults creates a storage pool and a bridge. A server with these can't join a cluster.
	ApplyDefaults bool `json:"apply_defaults"`
	// Preseed are further settings; nil: none.
	Preseed *Preseed `json:"preseed,omitempty"`
}

// Preseed is the input of "incus admin init --preseed". The default of core.https_address is :8443.
type Preseed api.InitPreseed

// MarshalJSON leaves out null members, since a server of an older release may not know them.
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
	return json.Marshal(withoutNull(all))
}

// withoutNull returns a value without its null members.
func withoutNull(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			if member == nil {
				delete(value, name)
			} else {
				value[name] = withoutNull(member)
			}
		}
	case []any:
		for i := range value {
			value[i] = withoutNull(value[i])
		}
	}
	return value
}

func (i *Incus) validate(v *validation) {
	if i.ApplyDefaults && v.rules.JoinsCluster {
		v.add("apply_defaults", "it must be false: a server with the default pool and bridge can't join a cluster")
	}
	if i.Preseed != nil && i.Preseed.Cluster != nil {
		v.add("preseed.cluster", "it must not be set in a seed: the control plane forms clusters")
	}
}
