// Command main writes a store as commit 5f38f36 did, into the directory that it is given. It is of that
// commit, and does not build at a later one. To write the fixture again:
//
//	git worktree add /tmp/5f38f36 5f38f36
//	mkdir /tmp/5f38f36/fixture && cp main.go /tmp/5f38f36/fixture/
//	(cd /tmp/5f38f36 && go run ./fixture /tmp/5f38f36/store)
//	tar -C /tmp/5f38f36/store --exclude=LOCK -czf store.tar.gz .
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

func main() {
	log.SetFlags(log.Lshortfile)
	store, err := badgerstore.Open(os.Args[1])
	check(err)
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	check(err)
	ctx := opscenter.By(context.Background(), "operator")

	check(registry.SetChannel(ctx, "testing", "what is tried first"))
	check(registry.PublishUpdate(ctx, "testing", "202609010000", "os", "incus"))
	rack1, err := registry.CreateToken(ctx, opscenter.TokenSpec{Description: "rack 1", Uses: 10, ExpireAt: time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)})
	check(err)
	_, err = registry.CreateToken(ctx, opscenter.TokenSpec{Description: "rack 2", Channel: "testing", ExpireAt: time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)})
	check(err)
	revoked, err := registry.CreateToken(ctx, opscenter.TokenSpec{Description: "by mistake"})
	check(err)
	check(registry.RevokeToken(ctx, revoked.UUID))

	// Six servers, with certificates, facts and a changed fact; one of them does not answer any more.
	for i := range 6 {
		identity, err := selfsigned.New(fmt.Sprint("server", i))
		check(err)
		registered, err := registry.Register(ctx, opscenter.Registration{Token: rack1.UUID, Certificate: identity.Leaf, Name: fmt.Sprintf("server%02d", i),
			ConnectionURL: fmt.Sprintf("https://10.0.0.%d:8443", i+1), MachineID: fmt.Sprintf("%032x", 0xabc000+i),
			SystemUUID: fmt.Sprintf("4c4c4544-0042-3510-8057-%012x", i), Properties: map[string]string{"rack": "1"}, RemoteAddr: "10.0.0.1:1234"})
		check(err)
		info, err := registry.Server(ctx, registered.Name)
		check(err)
		kind, maintenance, member := opscenter.TypeIncus, opscenter.NotInMaintenance, info.Name
		for poll := range 2 {
			check(registry.RecordObservations(ctx, opscenter.Observation{Server: info.Name, ID: info.ID, At: time.Now().UTC(), Ready: true,
				Type: &kind, Maintenance: &maintenance, MemberName: &member,
				Versions: &opscenter.Versions{OS: opscenter.OSVersion{Name: opscenter.OSName, Version: "202608010000"},
					Applications: []opscenter.ApplicationVersion{{Name: "incus", Version: "202608010000", Primary: true}}, UpdateChannel: "stable"},
				Facts: &opscenter.Facts{Hardware: incusostest.Hardware(uint64(10*poll + i + 1))}}))
		}
	}
	lost, err := registry.Server(ctx, "server05")
	check(err)
	for range 3 {
		check(registry.RecordObservations(ctx, opscenter.Observation{Server: lost.Name, ID: lost.ID, At: time.Now().UTC(),
			Failure: &opscenter.Failure{Kind: opscenter.FailureConnect, Message: "connection refused"}}))
	}
	_, err = registry.CreateCluster(ctx, "cluster1", opscenter.ClusterSpec{Description: "of three", Channel: "testing"}, "server00", "server01", "server02")
	check(err)
	check(registry.RenameServer(ctx, "server04", "spare", nil))
	check(registry.Warn(ctx, "server03", opscenter.Warned{Kind: "Fan failed", Message: "fan 2 stands still"}))
	check(registry.Warn(ctx, "", opscenter.Warned{Kind: "Air conditioning", Message: "32 degrees"}))
	check(registry.Warn(ctx, "server03", opscenter.Warned{Kind: "Disk", Message: "sdb"}))
	check(registry.ClearWarning(ctx, "server03", "Disk"))

	entries, err := audit.New(registry, audit.Options{})
	check(err)
	for i := range 5 {
		failure := map[bool]error{true: errors.New("the server said no")}[i == 3]
		if err := entries.Do(ctx, audit.Entry{Action: "server.reboot", Server: fmt.Sprintf("server%02d", i)}, func(context.Context) error { return failure }); !errors.Is(err, failure) {
			log.Fatal(err)
		}
	}

	takeInventory(ctx, registry)

	// Thirty events, or more.
	for i := 0; ; i++ {
		list, err := registry.Events(ctx, opscenter.EventFilter{Limit: 1000})
		check(err)
		if len(list) >= 60 {
			fmt.Println("events:", len(list), "last:", list[len(list)-1].Sequence)
			break
		}
		check(registry.PublishUpdate(ctx, "testing", fmt.Sprintf("2027010100%02d", i), "os"))
	}
	revision, err := registry.Revision(ctx)
	check(err)
	fmt.Println("revision:", revision)
	check(registry.Close())
	check(store.Close())
}

// takeInventory adopts a simulated Incus server, reads what is in it, and changes some of that.
func takeInventory(ctx context.Context, registry *opscenter.Registry) {
	server, err := incusostest.New(incusostest.Options{Name: "incus1", Standalone: true})
	check(err)
	defer server.Close()
	server.Furnish(30)
	identity, err := selfsigned.New("control-plane")
	check(err)
	client := incusos.New(incusos.Options{Certificate: &identity})
	defer client.Close()
	objects, err := inventory.New(registry, client, inventory.Options{})
	check(err)
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- objects.Run(ctx) }()
	_, err = client.Adopt(ctx, registry, server.URL(), server.TrustToken("control-plane"), incusos.AdoptOptions{})
	check(err)
	info, err := registry.Server(ctx, "incus1")
	check(err)
	kind, member := opscenter.TypeIncus, info.Name
	check(registry.RecordObservations(ctx, opscenter.Observation{Server: info.Name, ID: info.ID, At: time.Now().UTC(), Ready: true, Type: &kind, MemberName: &member}))
	wait(func() bool {
		status, err := objects.Status(ctx)
		check(err)
		for _, s := range status {
			if s.Following {
				return true
			}
		}
		return false
	})
	operator, err := selfsigned.New("operator")
	check(err)
	server.Trust(operator.Leaf)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{operator}}}}
	for i := range 4 {
		name := fmt.Sprint("small", i)
		for _, step := range []struct {
			method, path string
			body         map[string]any
		}{
			{"POST", "profiles", map[string]any{"name": name}},
			{"PATCH", "profiles/" + name, map[string]any{"description": "changed"}},
		} {
			body, err := json.Marshal(step.body)
			check(err)
			req, err := http.NewRequestWithContext(ctx, step.method, server.URL()+"/1.0/"+step.path, bytes.NewReader(body))
			check(err)
			resp, err := web.Do(req)
			check(err)
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode >= 300 {
				log.Fatal(step, resp.Status, string(text))
			}
			changed := 2*i + map[string]int{"POST": 1, "PATCH": 2}[step.method]
			wait(func() bool {
				list, err := objects.Changes(ctx, 0, 1000)
				check(err)
				if len(list) > changed {
					fmt.Println("inventory changes:", len(list), "last:", list[len(list)-1].Sequence)
				}
				return len(list) > changed // the first one is the cluster's
			})
		}
	}
	page, err := objects.List(ctx, inventory.Query{Limit: 1000})
	check(err)
	fmt.Println("objects:", len(page.Objects))
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func wait(done func() bool) {
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			log.Panic("nothing happens any more")
		}
	}
}

func check(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}
