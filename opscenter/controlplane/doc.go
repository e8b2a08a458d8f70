// Package controlplane assembles a control plane: the registry, the endpoint that IncusOS servers call, the poller, and
// everything else that runs, with an owner for each goroutine. A program needs a store, a certificate and a context:
//
//	cp, err := controlplane.New(memstore.New(), certificate, controlplane.Options{})
//	if err != nil {
//		return err
//	}
//	token, err := cp.Registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 10}) // for the seeds of ten servers
//	...
//	return cp.ListenAndServe(ctx, ":7443")
//
// Servers register with the token, are polled, and say from then on how they are and which action they need.
//
// # Certificates
//
// The certificate has two uses: servers see it at the endpoint, and the control plane presents it when it connects to
// servers. Options.Client.Certificate is another one for the second use. Package devcert makes certificates for first
// steps. Servers pin the certificate of the endpoint, unless Options.PubliclyTrusted says that their system trusts it.
//
// # Ways to run
//
//   - [ControlPlane.ListenAndServe] listens at an address and serves HTTPS there.
//   - [ControlPlane.Serve] serves HTTPS on a listener of the caller.
//   - [ControlPlane.Run] serves no HTTPS: mount [ControlPlane.Handler] on a mux, on a server with [ControlPlane.TLSConfig].
//
// All three run the same parts, and a ControlPlane runs once. Options.Socket adds a Unix socket for operators to each of
// them. Operators with a certificate in Options.Trust use the HTTPS endpoint.
//
// # Parts
//
// The parts are fields of [ControlPlane], each made by the New of its package, with the field of the same name in [Options]:
//
//	Registry   opscenter            identity and state of the servers
//	Client     opscenter/incusos    the only part that opens connections to servers
//	Poller     poller               polls the servers; it runs
//	Planner    opscenter            recommends and performs actions
//	Rollouts   opscenter/rollout    rolling updates; it runs
//	Systems    opscenter/system     networks and settings of servers; it runs
//	Inventory  opscenter/inventory  objects in the clusters; it runs
//	Clusters   opscenter/cluster    forms clusters
//	Audit      opscenter/audit      log of the changes of operators
//	Updates    opscenter/updates    the update feed, with Options.UpdatesDir; it runs
//	Images     opscenter/image      installation images, with Options.UpdatesDir and Options.URL
//	WebUI      opscenter/webui      the web page, with Options.WebUI
//
// They may be used as soon as New has returned. What needs a part that runs waits until the control plane runs.
//
// # Stopping
//
// A run ends when its context ends, when Close is called, or when one of its parts fails, and in this order:
//
//  1. The endpoints accept no new connections, and new requests are answered with status 503. At the same time the context of all
//     parts ends. The poller stores what it has found, and the others leave what is under way to the next start.
//  2. Requests under way have Options.DrainTimeout to end. Then their contexts end, and their connections are closed.
//  3. When all parts and requests have ended, the socket, the images and the files of updates are closed, then the
//     connections to servers. The registry flushes last seen times and warnings into the store.
//  4. The run returns. The store is the caller's, and is closed after it.
//
// Steps 1 and 2 together, and step 3, take at most Options.StopTimeout each. The run then returns [ErrStopTimeout]. After
// steps 1 and 2 it names the parts that have not ended; after step 3 it names no part. Goroutines may still run then.
//
// # Where to go next
//
// Package badgerstore keeps the store on disk. The program examples/controlplane has flags, a configuration file and a
// systemd unit around this package; examples/embed mounts the handler on a mux of its own. Package httpapi documents the REST API for
// operators, package incusostest simulates servers, and package metrics (a module of its own) exports metrics of the Registry, the
// Poller and the Client.
//
// # Updates and images
//
// With UpdatesDir, Run fetches releases at its start and every hour. With URL, too, there are installation images:
//
//	cp, err := controlplane.New(store, certificate, controlplane.Options{
//		URL:        "https://control.example.org:7443",
//		UpdatesDir: "/var/lib/opscenter/updates"})
//	err = cp.Registry.Channels().Create(ctx, "testing", "")
//
// Once Run has fetched a release, promote it:
//
//	if releases := cp.Updates.Snapshot().Updates(); len(releases) > 0 {
//		err = cp.Updates.SetChannels(ctx, releases[0].UUID, []string{"testing", "stable"}, updates.SetOptions{})
//	}
//
// A seed for the servers of a token is checked before it is stored:
//
//	lab := &seed.Seed{Install: &seed.Install{Target: &seed.InstallTarget{Bus: "nvme"}}, Applications: seed.ApplicationsOf("incus"), Incus: &seed.Incus{}}
//	err = lab.Validate(seed.Rules{JoinsCluster: true}) // errors that would stop the server, by file and field
//	raw, err := lab.Raw()
//	_, err = cp.Registry.TokenSeeds().Create(ctx, token.UUID, "lab", opscenter.TokenSeedSpec{Files: raw})
//
// The REST API makes a seed and its image, too. In these lines, api is a function of the shell:
//
//	api() { curl --unix-socket /run/opscenter.sock "http://opscenter/1.0/$@"; }
//	api provisioning/tokens/TOKEN/seeds --json '{"name":"lab","seeds":{"install":{"target":{"bus":"nvme"}}}}'
//	api 'provisioning/tokens/TOKEN/seeds/lab?type=iso&architecture=x86_64' -o lab.iso
//	api provisioning/tokens/TOKEN/image --json '{"type":"iso","architecture":"x86_64","seeds":{"install":{}}}' # {"image": PATH}
package controlplane
