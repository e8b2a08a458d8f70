package inventory

import (
	"fmt"
	"slices"
)

// Kind is the kind of an object. The values are the names that Operations Center uses.
type Kind string

// Kinds of objects. Each is named after the object of the Incus API.
const (
	KindClusterMember       Kind = "cluster_member"
	KindImage               Kind = "image"
	KindInstance            Kind = "instance"
	KindNetwork             Kind = "network"
	KindNetworkACL          Kind = "network_acl"
	KindNetworkAddressSet   Kind = "network_address_set"
	KindNetworkForward      Kind = "network_forward"
	KindNetworkIntegration  Kind = "network_integration"
	KindNetworkLoadBalancer Kind = "network_load_balancer"
	KindNetworkPeer         Kind = "network_peer"
	KindNetworkZone         Kind = "network_zone"
	KindProfile             Kind = "profile"
	KindProject             Kind = "project"
	KindStorageBucket       Kind = "storage_bucket"
	KindStoragePool         Kind = "storage_pool"
	KindStorageVolume       Kind = "storage_volume"
)

// kindInfo describes how the Incus API lists a kind, and how its objects are identified.
type kindInfo struct {
	kind Kind
	// collection is the path of the list, under /1.0 or under the path of the parent.
	collection string
	recursion  string
	// extensions of the API that the list needs.
	extensions []string
	project    bool // objects are in a project
	parent     Kind // kind of the parent; empty: none
	// parents are the types of the parent that can have such objects; nil: all.
	parents []string
	// local: several members may have objects of one name.
	local bool
	// located: an object is on a member, or shows its member.
	located bool
}

// kinds are in the order of a scan: parents first.
var kinds = []kindInfo{
	{kind: KindProject, collection: "projects", recursion: "1"},
	{kind: KindClusterMember, collection: "cluster/members", recursion: "1"},
	{kind: KindStoragePool, collection: "storage-pools", recursion: "1"},
	{kind: KindNetwork, collection: "networks", recursion: "1", project: true, extensions: []string{"networks_all_projects"}},
	{kind: KindProfile, collection: "profiles", recursion: "1", project: true, extensions: []string{"profiles_all_projects"}},
	{kind: KindImage, collection: "images", recursion: "1", project: true, extensions: []string{"images_all_projects"}},
	{kind: KindInstance, collection: "instances", recursion: "2", project: true, located: true, extensions: []string{"instance_all_projects", "instance_get_full"}},
	{kind: KindNetworkACL, collection: "network-acls", recursion: "1", project: true, extensions: []string{"network_acl", "network_acls_all_projects"}},
	{kind: KindNetworkAddressSet, collection: "network-address-sets", recursion: "1", project: true, extensions: []string{"network_address_set"}},
	{kind: KindNetworkIntegration, collection: "network-integrations", recursion: "1", extensions: []string{"network_integrations"}},
	{kind: KindNetworkZone, collection: "network-zones", recursion: "1", project: true, extensions: []string{"network_dns", "network_zones_all_projects"}},
	{kind: KindNetworkForward, collection: "forwards", recursion: "1", project: true, parent: KindNetwork, parents: []string{"bridge", "ovn"}, local: true, located: true, extensions: []string{"network_forward"}},
	{kind: KindNetworkLoadBalancer, collection: "load-balancers", recursion: "1", project: true, parent: KindNetwork, parents: []string{"ovn"}, extensions: []string{"network_load_balancer"}},
	{kind: KindNetworkPeer, collection: "peers", recursion: "1", project: true, parent: KindNetwork, parents: []string{"ovn"}, extensions: []string{"network_peer"}},
	{kind: KindStorageVolume, collection: "volumes", recursion: "1", project: true, parent: KindStoragePool, local: true, located: true, extensions: []string{"storage_volumes_all_projects"}},
	{kind: KindStorageBucket, collection: "buckets", recursion: "1", project: true, parent: KindStoragePool, local: true, located: true, extensions: []string{"storage_buckets", "storage_buckets_all_projects"}},
}

// Kinds lists all kinds, sorted. Read it, never modify it.
var Kinds = func() (out []Kind) {
	for _, info := range kinds {
		out = append(out, info.kind)
	}
	slices.Sort(out)
	return out
}()

var kindInfos = func() map[Kind]*kindInfo {
	out := map[Kind]*kindInfo{}
	for i := range kinds {
		out[kinds[i].kind] = &kinds[i]
	}
	return out
}()

// Plural returns the plural of the kind, such as "instances" or "network_acls".
func (k Kind) Plural() string { return string(k) + "s" }

func (k Kind) info() *kindInfo { return kindInfos[k] }

// check returns ErrInvalidQuery for an unknown kind.
func (k Kind) check() error {
	if k.info() == nil {
		return fmt.Errorf("kind %.80q, known are %q: %w", string(k), Kinds, ErrInvalidQuery)
	}
	return nil
}
