package inventory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// caller reads from a daemon directly, without the tested code.
type caller func(path string, into any) error

// fresh lists all objects of a daemon: the documents by the names of the objects. It shares no code with the
// inventory.
func fresh(call caller) (map[string]map[string]any, error) {
	out := map[string]map[string]any{}
	list := func(kind, path, parent, project string, optional bool) ([]map[string]any, error) {
		var entries []map[string]any
		if err := call(path, &entries); err != nil {
			if optional {
				return nil, nil
			}
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, e := range entries {
			if managed, ok := e["managed"]; ok && managed == false {
				continue
			}
			name, _ := e["name"].(string)
			for _, other := range []string{"server_name", "fingerprint", "listen_address"} {
				if text, ok := e[other].(string); ok && kind != "instance" && (other != "server_name" || kind == "cluster_member") {
					name = text
				}
			}
			in, _ := e["project"].(string)
			if in == "" {
				in = project
			}
			typ, location := "", ""
			if kind == "storage_volume" {
				typ, _ = e["type"].(string)
			}
			if kind == "storage_volume" || kind == "storage_bucket" || kind == "network_forward" {
				if location, _ = e["location"].(string); location == "none" {
					location = ""
				}
			}
			out[strings.Join([]string{kind, in, parent, typ, name, location}, "|")] = stripped(e)
		}
		return entries, nil
	}
	for _, k := range []struct {
		kind, path string
		optional   bool
	}{{"project", "projects?recursion=1", false}, {"profile", "profiles?recursion=1&all-projects=true", false}, {"image", "images?recursion=1&all-projects=true", false},
		{"instance", "instances?recursion=2&all-projects=true", false}, {"network_acl", "network-acls?recursion=1&all-projects=true", false},
		{"network_zone", "network-zones?recursion=1&all-projects=true", false}, {"network_integration", "network-integrations?recursion=1", false},
		{"network_address_set", "network-address-sets?recursion=1&all-projects=true", true}, {"cluster_member", "cluster/members?recursion=1", true}} {
		if _, err := list(k.kind, "/1.0/"+k.path, "", "", k.optional); err != nil {
			return nil, err
		}
	}
	networks, err := list("network", "/1.0/networks?recursion=1&all-projects=true", "", "", false)
	if err != nil {
		return nil, err
	}
	for _, n := range networks {
		if n["managed"] == false {
			continue
		}
		name, project := n["name"].(string), n["project"].(string)
		for kind, path := range map[string]string{"network_forward": "forwards", "network_load_balancer": "load-balancers", "network_peer": "peers"} {
			if _, err := list(kind, "/1.0/networks/"+name+"/"+path+"?recursion=1&project="+url.QueryEscape(project), name, project, true); err != nil {
				return nil, err
			}
		}
	}
	var server struct {
		Extensions []string `json:"api_extensions"`
	}
	if err := call("/1.0", &server); err != nil {
		return nil, err
	}
	apart := slices.Contains(server.Extensions, "storage_volume_full")
	pools, err := list("storage_pool", "/1.0/storage-pools?recursion=1", "", "", false)
	if err != nil {
		return nil, err
	}
	for _, p := range pools {
		name := p["name"].(string)
		for kind, path := range map[string]string{"storage_volume": "volumes", "storage_bucket": "buckets"} {
			entries, err := list(kind, "/1.0/storage-pools/"+name+"/"+path+"?recursion=1&all-projects=true", name, "", false)
			if err != nil {
				return nil, err
			}
			for _, v := range entries {
				if !apart || kind != "storage_volume" || v["type"] != "custom" {
					continue
				}
				location, _ := v["location"].(string)
				where := "/1.0/storage-pools/" + name + "/volumes/custom/" + url.PathEscape(v["name"].(string)) + "/snapshots?recursion=1&project=" + url.QueryEscape(v["project"].(string))
				if location == "none" {
					location = ""
				} else if location != "" {
					where += "&target=" + url.QueryEscape(location)
				}
				var snapshots []map[string]any
				if err := call(where, &snapshots); err != nil {
					return nil, fmt.Errorf("%s: %w", where, err)
				}
				for _, s := range snapshots {
					out[strings.Join([]string{kind, v["project"].(string), name, "custom", s["name"].(string), location}, "|")] = stripped(s)
				}
			}
		}
	}
	return out, nil
}

// stripped returns a document without members that change by themselves, and with sorted sets.
func stripped(e map[string]any) map[string]any {
	e = maps.Clone(e)
	for _, name := range []string{"state", "message", "project"} {
		delete(e, name)
	}
	for _, name := range []string{"used_by", "locations", "roles", "groups"} {
		if list, ok := e[name].([]any); ok {
			list = slices.Clone(list)
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			e[name] = list
		}
	}
	return e
}

// kept returns the objects that the inventory has of a cluster, in the same form.
func kept(ctx context.Context, m *inventory.Manager, cluster string) (map[string]map[string]any, error) {
	out := map[string]map[string]any{}
	for o, err := range m.Objects(ctx, inventory.Query{Cluster: cluster}) {
		if err != nil {
			return nil, err
		}
		var document map[string]any
		if err := json.Unmarshal(o.Object, &document); err != nil {
			return nil, err
		}
		location := ""
		if o.Kind == "storage_volume" || o.Kind == "storage_bucket" || o.Kind == "network_forward" {
			told := false
			if location, told = document["location"].(string); location == "none" {
				location = ""
			} else if !told && o.Server != cluster { // snapshots that are listed apart
				location = o.Server
			}
		}
		key := strings.Join([]string{string(o.Kind), o.Project, o.Parent, o.Type, o.Name, location}, "|")
		if out[key] != nil {
			return nil, fmt.Errorf("the inventory has %s twice", key)
		}
		out[key] = stripped(document)
	}
	return out, nil
}

// difference describes how two listings differ. Empty: they are equal.
func difference(want, have map[string]map[string]any) string {
	var out []string
	for key := range want {
		switch {
		case have[key] == nil:
			out = append(out, "missing "+key)
		case !reflect.DeepEqual(want[key], have[key]):
			made := want[key]["status_code"] == 112.0 && want[key]["config"] == nil // by Incus: only these members are real
			for name := range maps.Keys(merged(want[key], have[key])) {
				if made && !slices.Contains([]string{"name", "status", "status_code", "location"}, name) {
					continue
				}
				if !reflect.DeepEqual(want[key][name], have[key][name]) {
					out = append(out, fmt.Sprintf("%s: %s is %v, and kept as %v", key, name, want[key][name], have[key][name]))
				}
			}
		}
	}
	for key := range have {
		if want[key] == nil {
			out = append(out, "kept, but gone: "+key)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func merged(a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// agrees requires the inventory to equal a fresh listing within a time, and returns the time it took.
func agrees(t *testing.T, m *inventory.Manager, cluster string, call caller, within time.Duration, what string) time.Duration {
	t.Helper()
	begun := time.Now()
	shown := begun
	for {
		asked := time.Now()
		have, err := kept(t.Context(), m, cluster)
		require.NoError(t, err)
		want, err := fresh(call)
		var differs string
		if err == nil {
			if differs = difference(want, have); differs == "" {
				return asked.Sub(begun)
			}
		}
		if time.Since(shown) > 5*time.Second {
			shown = time.Now()
			status, _ := m.Status(t.Context())
			t.Logf("%s: after %s: %v\n%s\n%+v", what, time.Since(begun).Round(time.Second), err, differs, status)
		}
		if time.Since(begun) > within {
			status, _ := m.Status(t.Context())
			require.Fail(t, "the inventory does not agree", "after %s, %s: %v\n%s\n%+v", what, time.Since(begun), err, differs, status)
		}
		time.Sleep(20 * time.Millisecond) // between two comparisons
	}
}
