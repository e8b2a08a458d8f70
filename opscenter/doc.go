// Package opscenter is the domain of a control plane for IncusOS servers: which servers there are, their state, and the
// next action for each.
//
// A [Registry] stands on a storage.Store. It admits servers that register with a token, keeps their identity and the
// intent of operators, records the results of polls, and answers questions. An [UpdatePlanner] recommends the next action
// for each server and carries it out. [NewRegistry] needs a store and no options. Package opscenter/controlplane adds all
// that runs: the listener, the poller and the rest.
//
// This package opens no connections. Package poller polls servers, package incusos talks to them, and package httpapi
// answers them. An action is stored as an intent first, then carried out, then observed by polls. A crash between two of
// these steps loses no action.
//
// # Packages
//
// Below opscenter, from the pure to the assembled:
//
//	lifecycle      the rules for one server: status, transitions, recommended action; the diagram of its states
//	event          the kinds of events
//	warning        the kinds of warnings, and when each is cleared
//	rolling        decides the next step of a rollout; pure
//	rollout        stores rollouts, and carries out their steps
//	system         changes the configuration of servers: network, updates, storage, logging
//	inventory      the objects in each Incus cluster: instances, networks, volumes
//	cluster        forms Incus clusters, adds and removes servers
//	updates        mirrors releases of IncusOS, puts them into channels, and serves them
//	seed           the seed that configures a server at its first boot
//	image          writes a seed into an installation image
//	incusos        connects to servers: reads their state, performs actions
//	httpapi        the HTTP API for servers and operators
//	client         a client of the operators' part of that API
//	webui          the web page for operators
//	incusostest    simulated servers for tests
//	controlplane   assembles everything: a program begins here
//
// Further ones are access (roles and scopes), accesstoken (tokens for operators), audit (the log of changes by operators),
// expression (filters), metrics (Prometheus), network (network configurations), terminal (safe printing) and devcert
// (certificates for first steps). Packages poller and storage stand
// beside opscenter.
//
// # Where to look
//
//	the servers                    Registry: CreateToken, Register, PreRegister, AllowReinstall, Server, ListServers
//	their state                    ServerInfo.State; ServerFacts without secrets; Snapshot.FactsHistory
//	the next action                ServerInfo.Recommendation; UpdatePlanner.Act
//	the versions they should run   package updates; Channels.Create; without a feed Channels.Publish
//	judging registrations          Options.Admit
//	seeds of tokens                TokenSeeds.Create; packages seed and image
//	clusters                       CreateCluster, AddClusterMembers, ListClusters; package cluster forms them
//	plans and rollouts             UpdatePlanner.Plan; package rollout
//	problems                       Warnings.List, Acknowledge, Raise; Observer.FleetUnreachable
//	the past                       ListEvents, WatchEvents; package audit, with WithPrincipal
//	load                           Counts; Stats of poller.Poller and incusos.Client; package metrics
//	rows of a program's own        Registry.Write and Read: one transaction with the Registry's rows
//
// # Rules
//
//   - The same certificate registering again is a repeat: the answer is the same, and the token loses no use.
//   - Servers that go down three times within an hour are held offline, with a warning, until they are steady for 15
//     minutes.
//   - If half of the servers polled within 15 s fail together, and at least five, a sample of the others is polled at
//     once. If half of the sample fails, no server becomes offline. The warning "Fleet unreachable" stands until the
//     servers answer.
//   - A poll that fails because this machine lacks descriptors, memory or a network changes no status.
//   - A certificate other than the registered one is accepted in three cases. An operator accepted it. Or it is that of
//     the server's cluster, and an operator accepted it for another member. Or it is publicly trusted, at a public
//     connection URL that an operator set (public_connection_url_trusted).
//   - In each of these cases the machine ID must be the registered one. A release without machine IDs is accepted if an
//     operator accepted the certificate, added the server to the cluster, or set the URL. The certificate of another
//     record is never accepted.
//   - A value that a poll could not read keeps its old value, with a warning. A value that a release does not tell is
//     unknown, and no difference.
//   - Only needs_reboot makes a reboot due. A server that runs its backup image raises a warning, and rollouts to the
//     failed version name it.
//   - Two machines with one system UUID and different machine IDs are two machines. A warning names both.
//   - A URL that names no single server is refused: unspecified, multicast, or link-local without a zone.
//   - An Incus server without IncusOS is polled. Its updates and reboots are not managed.
//
// # Performance
//
// Packages memstore and badgerstore have the figures of reads and of the heap. Reading 100,000 servers out of memory and
// planning their update takes 3.3 s, of which the plan takes 1.65 s (package rolling):
//
//	go test -run '^$' -bench Plan ./opscenter
//
// What a server costs in fleets of three sizes, on Badger, with 2 shared cores. The last column is the largest fleet by the
// smallest. Badger itself takes 40 MB of memory and 3 MB of disk, whatever the size of the fleet. The row cache of badgerstore holds
// 14,000 servers: lists and filters of larger fleets read rows from Badger.
//
//	go test -run '^$' -bench Growth -benchtime 1x -timeout 60m ./opscenter
//
//	a server in a fleet of    1,000     10,000    100,000   ratio
//	list                      2.2 µs    7.2 µs    17.9 µs   8.3
//	filter that finds none    4.8 µs    7.8 µs    19.5 µs   4.1
//	names                     0.33 µs   0.71 µs   2.1 µs    6.2
//	unchanged poll            0.57 µs   1.0 µs    1.4 µs    2.5
//	register, 64 at a time    0.26 ms   0.26 ms   0.83 ms   3.2
//	plan                      29 µs     23 µs     30 µs     1.0
//	open                      18 µs     12 µs     10 µs     0.5
//	heap                      50 KB     8.8 KB    1.8 KB
//	disk                      4.2 KB    2.3 KB    1.3 KB
//
// # What a server can cost you
//
// A registered server may be hostile, and so may a stranger. The content and the rate of its messages cost a bounded
// amount, and the other servers are served as before. Each budget has a default and a test. Budgets with an option or a
// constant are named by it. A value over its budget waits, is refused, or is left out, as the table says. Facts and
// objects that are left out for lack of room are a standing warning.
//
// Package incusostest attacks (Server.SetHostile). TestHostile measures one hostile server among a hundred others: it
// costs at most 64 MiB of memory, and the polls and the inventory of the others go on as before.
//
// The answers of a server:
//
//	budget                                     default        beyond                                   test
//	incusos.DefaultMaxBody, an answer          4 MiB          is not read                              TestEachFault
//	the header of an answer                    64 KiB         is not read                              TestEndlessHeader
//	facts, each part as it is read             4 × its kept   is not read                              TestHostileFacts
//	lifecycle.MaxHardwareSize and others       688 KiB in all is left out, with warning.Facts          TestFactsThatAreTooLarge
//	opscenter.Options.MaxFactsHistory          20 changes     the oldest go                            TestFactsHistory
//	poller.DefaultTimeout, a poll              30 s           counts as a failure                      TestGrace
//	poller.DefaultMinTimeout, a silent one     2 s            is repeated with the full timeout        TestSilentTenth
//	poller.DefaultSlowConcurrency, slow polls  512            wait for each other, not the others      TestHangingServersDoNotDelayHealthyOnes
//	incusos.DefaultMaxConnsPerServer           4 connections  wait                                     TestConnectionsAreBounded
//
// The objects in its Incus. MaxObjects, MaxSize and MaxUnitChanges are for each server of a cluster. MaxStreams is for all
// clusters. The others are for each cluster:
//
//	inventory.DefaultMaxObjects                5,000          are not kept, with warning.Inventory     TestBudget
//	inventory.DefaultMaxSize                   8 MiB          is kept by name, likewise                TestBudgetOfBytes
//	inventory.MaxNameLength                    512 bytes      is not kept, likewise                    TestLongNames
//	inventory.MaxMembers of an object          1,000          its name is kept                         TestManyMembers
//	inventory.MaxObjectSize                    512 KiB        its largest members are left out         TestLargeObjects
//	incusos.DefaultMaxObject, as it is read    1 MiB          is read without its parts                TestTooLarge
//	a list, as it is read                      2 × objects, 8 × bytes; the rest is not read            TestBudget
//	the rate at which lists are read           16 MiB/s       waits                                    TestHostile
//	inventory.DefaultMaxLooks, at one object   200/s          wait                                     TestLooks
//	inventory.DefaultMaxPending events         1,000 objects  all is listed anew                       TestLimits
//	events, as they are read                   1,000/s, 1 MiB/s; the daemon waits                      TestEventRate
//	the names in an event                      512 bytes      all is listed anew                       TestHostileEvents
//	inventory.DefaultMaxStreams of events      4,000          show with scans only                     TestLimits
//	inventory.DefaultMaxEventsBackoff          1 h            without events; warning.Events           TestNoEventsIsQuiet
//	inventory.DefaultScanTimeout               15 min         is tried again, later each time          TestSlowClusterDelaysNoOther
//	inventory.DefaultMaxUnitChanges            1,000          its own oldest go                        TestUnitChanges
//	the removal of a unit                      500 rows a step, beside all else                        TestPurge
//
// Requests of a server or a stranger:
//
//	opscenter.Options.SelfUpdateInterval       5 s            a repetition is only answered            TestSelfUpdatesAreRationed
//	new things beyond that                     20 at once     opscenter.ErrTooOften                    TestSelfUpdatesAreRationed
//	opscenter.Options.MaxServerEvents          200            its own oldest go                        TestHistoryCannotBeErased
//	httpapi.DefaultMaxBody, a request          64 KiB         is refused                               TestLimits
//	httpapi.DefaultWriteTimeout, a reader      30 s           is cut off                               TestStreamsThatAreNotRead
//	httpapi.DefaultFailuresPerMinute           30             are turned away                          TestFailedRegistrationsAreLimited
//	httpapi.DefaultMaxDownloads, at a time     1,000          as many wait; then 503                   TestDownloadsAreBounded
//	httpapi.DefaultMaxDownloadsPerAddress      250            wait, likewise                           TestDownloadsAreBounded
//	opscenter.Options.Admit, at a time         64             opscenter.ErrTooOften                    TestAdmissionsAreBounded
//	opscenter.Options.AdmitTimeout             10 s           is refused                               TestNotAdmitted
//	opscenter.Options.AllowURL                 anywhere       no server may be there                   TestAllowURL
//	incusos.Options.AllowAddress               any            is not connected to                      TestAllowAddress
//
// No server can pass for another one (TestWhoMayPresentWhat). Many servers together can make the control plane suspect
// itself: if opscenter.Options.GuardShare of them fail, it polls a sample of the others (TestPartialAndTotalOutages).
//
// On disk, storage/badgerstore stays within three times the size of its content and 256 MiB (TestDiskIsGivenBack). It
// accepts no write with less than badgerstore.DefaultMinFree left (TestDiskFull, TestClosedOnAFullDisk). It opens after a
// crash with all acknowledged writes (TestKills).
package opscenter
