package opscenter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// A token with one use admits one server. The same certificate from the same machine is a repeat and spends no use.
func ExampleRegistry_Register() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 1})
	check(err)
	first := opscenter.Registration{Token: token.UUID, Certificate: certificate(0), Name: "server00", ConnectionURL: "https://10.0.0.1:8443"}
	for range 2 {
		registered, err := registry.Register(ctx, first)
		check(err)
		fmt.Println(registered.Name, "repeat:", registered.Repeat)
	}
	_, err = registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: certificate(1), Name: "server01", ConnectionURL: "https://10.0.0.2:8443"})
	fmt.Println(err)
	// Output:
	// server00 repeat: false
	// server00 repeat: true
	// token has no uses left
}

// An operator knows the machine ID of a server before the server registers. The server gets the operator's name,
// whatever name it gives itself.
func ExampleRegistry_PreRegister() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	expected, err := registry.PreRegister(ctx, opscenter.PreRegistration{Name: "rack1-slot1", MachineID: machineID(0)})
	check(err)
	fmt.Println(expected.Name, "is", expected.State.Status)
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{})
	check(err)
	registered, err := registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: certificate(0),
		Name: "incus-os", ConnectionURL: "https://10.0.0.1:8443", MachineID: machineID(0)})
	check(err)
	server, err := registry.Server(ctx, registered.Name)
	check(err)
	fmt.Println(server.Name, "is", server.State.Status)
	// Output:
	// rack1-slot1 is unregistered
	// rack1-slot1 is pending
}

// A server tells that it reboots. It is offline at once, and the control plane expects it back.
func ExampleRegistry_SelfUpdate() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	server := exampleServer(ctx, registry, 0)
	check(registry.SelfUpdate(ctx, certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}))
	server, err := registry.Server(ctx, server.Name)
	check(err)
	fmt.Println(server.State.Status, server.State.StatusDetail)
	err = registry.SelfUpdate(ctx, certificate(1), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemIsReady})
	fmt.Println(err)
	// Output:
	// offline rebooting
	// certificate is not that of a registered server
}

// An operator describes a server, renames it, and removes it. The edit function sees the server as it is in the same
// transaction: an error that it returns ends the edit.
func ExampleRegistry_EditServer() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	exampleServer(ctx, registry, 0)
	check(registry.EditServer(ctx, "server00", func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
		spec.Description = "first server of the rack"
		spec.Properties = map[string]string{"rack": "1"}
		return nil
	}))
	check(registry.RenameServer(ctx, "server00", "rack1-slot1", nil))
	server, err := registry.Server(ctx, "rack1-slot1")
	check(err)
	fmt.Println(server.Name, server.Properties, server.Description)
	check(registry.DeleteServer(ctx, "rack1-slot1", false))
	_, err = registry.Server(ctx, "rack1-slot1")
	fmt.Println(errors.Is(err, opscenter.ErrNotFound))
	// Output:
	// rack1-slot1 map[rack:1] first server of the rack
	// true
}

// A machine that is installed again has a new certificate. It is refused until an operator allows it.
func ExampleRegistry_AllowReinstall() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	exampleServer(ctx, registry, 0)
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{})
	check(err)
	again := registration(0, token.UUID)
	again.Certificate = certificate(1)
	_, err = registry.Register(ctx, again)
	fmt.Println(err)
	check(registry.AllowReinstall(ctx, "server00", true))
	registered, err := registry.Register(ctx, again)
	check(err)
	server, err := registry.Server(ctx, registered.Name)
	check(err)
	fmt.Println(server.Name, server.Fingerprint == opscenter.Fingerprint(certificate(1)))
	// Output:
	// server "server00": machine is registered with another certificate
	// server00 true
}

// A server presents a certificate that it did not register with. The poll fails, and an operator who has compared the
// fingerprint accepts the certificate.
func ExampleRegistry_AcceptCertificate() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	server := exampleServer(ctx, registry, 0)
	presented := opscenter.Fingerprint(certificate(1))
	check(registry.Observer().Record(ctx, lifecycle.Observation{Server: server.Name, ID: server.ID, At: time.Now(), Presented: presented,
		Failure: &lifecycle.Failure{Kind: lifecycle.FailureCertificate, Message: "another certificate"}}))
	server, err := registry.Server(ctx, server.Name)
	check(err)
	fmt.Println("presents it:", server.State.Presented == presented)
	check(registry.AcceptCertificate(ctx, server.Name, server.State.Presented))
	server, err = registry.Server(ctx, server.Name)
	check(err)
	fmt.Println("accepted beside its own:", server.ServedFingerprint == presented)
	// Output:
	// presents it: true
	// accepted beside its own: true
}

// Two members of an Incus cluster become servers without having registered. incusos.Client.Adopt finds the certificates
// with an Incus trust token, and calls Adopt.
func ExampleRegistry_Adopt() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	check(registry.Adopt(ctx, opscenter.Adoption{Cluster: "cluster1", Certificate: certificate(0), Servers: []opscenter.AdoptedServer{
		{Name: "server01", ConnectionURL: "https://10.0.0.1:8443", Certificate: certificate(1), MemberName: "server01"},
		{Name: "server02", ConnectionURL: "https://10.0.0.2:8443", Certificate: certificate(2), MemberName: "server02"},
	}}))
	for server, err := range registry.Servers(ctx, opscenter.ServerFilter{Cluster: "cluster1"}) {
		check(err)
		fmt.Println(server.Name, server.State.Status, server.Cluster)
	}
	// Output:
	// server01 pending cluster1
	// server02 pending cluster1
}

// A page has a cursor of the next page. A filter may have an expression. Counts needs no read of the store.
func ExampleRegistry_ListServers() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	for n := range 3 {
		exampleServer(ctx, registry, n)
	}
	page := opscenter.Page{Limit: 2}
	for {
		servers, err := registry.ListServers(ctx, opscenter.ServerFilter{Expression: `os_version < "202610150000"`}, page)
		check(err)
		for _, server := range servers.Servers {
			fmt.Println(server.Name)
		}
		if servers.Next == "" {
			break
		}
		page.Cursor = servers.Next
	}
	for _, count := range registry.Counts() {
		fmt.Println(count.Count, count.Type, count.Status)
	}
	// Output:
	// server00
	// server01
	// server02
	// 3 incus ready
}

// Polls read the facts of a server. The Registry keeps a history of their changes.
func ExampleRegistry_ServerFacts() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	server := exampleServer(ctx, registry, 0)
	for _, mtu := range []int{1500, 9000} {
		found := answer(server)
		found.Facts = &lifecycle.Facts{Network: json.RawMessage(fmt.Sprintf(`{"config":{"mtu":%d}}`, mtu))}
		check(registry.Observer().Record(ctx, found))
	}
	facts, err := registry.ServerFacts(ctx, server.Name)
	check(err)
	fmt.Println(string(facts.Network))
	check(registry.Read(ctx, func(snapshot *opscenter.Snapshot) error { // one moment for all servers and their facts
		for server, err := range snapshot.Servers(opscenter.ServerFilter{}) {
			if err != nil {
				return err
			}
			facts, err := snapshot.Facts(server)
			if err != nil {
				return err
			}
			history, err := snapshot.FactsHistory(server.Name)
			if err != nil {
				return err
			}
			fmt.Println(server.Name, facts.Size(), "bytes")
			for _, revision := range history {
				for _, change := range revision.Changes {
					fmt.Println(revision.Number, change.Path, change.From, "→", change.To)
				}
			}
		}
		return nil
	}))
	// Output:
	// {"config":{"mtu":9000}}
	// server00 23 bytes
	// 1 network.config.mtu 1500 → 9000
}
