package seed_test

import (
	"fmt"

	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/seed"
)

// Example makes a seed for a future member of a cluster, with a mistake that would strand the server.
func Example() {
	s := &seed.Seed{
		Install:      &seed.Install{Target: &seed.InstallTarget{Bus: "nvme", SortOrder: seed.SortSmallest}},
		Applications: seed.ApplicationsOf("incus", "incus-ceph"),
		Network:      &seed.Network{Config: network.Config{Time: &network.Time{Timezone: "Europe/Atlantis"}}},
	}
	s.Manage(seed.OperationsCenterProvider("https://control.example.org:7443", "11111111-2222-4333-8444-555555555555", nil), "stable")
	fmt.Println(s.Validate(seed.Rules{JoinsCluster: true}))
	s.Network.Time.Timezone = "Europe/Berlin"
	fmt.Println(s.Validate(seed.Rules{JoinsCluster: true}))
	archive, err := s.Tar()
	fmt.Println(len(archive), err)
	// Set rejects unknown fields in a user's file.
	fmt.Println(s.Set(seed.FileNetwork, []byte("ntp:\n  servers: [pool.ntp.org]\n")))
	// Output:
	// invalid seed: network: time.timezone: there is no time zone "Europe/Atlantis"
	// <nil>
	// 7168 <nil>
	// invalid seed: network: ntp: there is no such field: NTP servers are time.ntp_servers
}
