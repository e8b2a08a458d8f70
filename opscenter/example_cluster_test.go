package opscenter_test

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/opscenter"
)

// The record of a cluster groups its members. Package cluster forms the Incus cluster itself.
func ExampleRegistry_CreateCluster() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	for n := range 3 {
		exampleServer(ctx, registry, n)
	}
	_, err := registry.CreateCluster(ctx, "cluster1", opscenter.ClusterSpec{Description: "rack 1"}, "server00", "server01")
	check(err)
	check(registry.AddClusterMembers(ctx, "cluster1", "server02"))
	check(registry.RemoveClusterMembers(ctx, "cluster1", opscenter.MemberRemoval{}, "server00"))
	for server, err := range registry.Servers(ctx, opscenter.ServerFilter{Cluster: "cluster1"}) {
		check(err)
		fmt.Println(server.Name)
	}
	// Output:
	// server01
	// server02
}

// An operator moves a cluster to another channel. All its members follow.
func ExampleRegistry_EditCluster() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	exampleServer(ctx, registry, 0)
	_, err := registry.CreateCluster(ctx, "cluster1", opscenter.ClusterSpec{}, "server00")
	check(err)
	check(registry.Channels().Create(ctx, "testing", "next releases"))
	check(registry.EditCluster(ctx, "cluster1", func(_ *opscenter.Cluster, spec *opscenter.ClusterSpec) error {
		spec.Channel = "testing"
		return nil
	}))
	check(registry.RenameCluster(ctx, "cluster1", "rack1", nil))
	cluster, err := registry.Cluster(ctx, "rack1")
	check(err)
	server, err := registry.Server(ctx, "server00")
	check(err)
	fmt.Println(cluster.Name, cluster.Status, cluster.Channel)
	fmt.Println(server.Name, server.Cluster, server.Channel)
	check(registry.DeleteCluster(ctx, "rack1", true)) // forced: it has a member
	left, err := registry.ListClusters(ctx, opscenter.ClusterFilter{}, opscenter.Page{})
	check(err)
	fmt.Println(len(left.Clusters), "clusters")
	// Output:
	// rack1 pending testing
	// server00 rack1 testing
	// 0 clusters
}
