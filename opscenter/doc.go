// Package opscenter is the domain: who the servers of a fleet are, how they are, and what to
// do with them next.
//
// A [Registry] over a storage.Store admits servers that register with a token, keeps their
// identity and their intent, takes in what polls find out, and answers questions. An
// [UpdatePlanner] recommends the next action for each server and carries it out. Nothing
// here opens a connection: package poller asks servers how they are, package
// opscenter/incusos talks to them, package opscenter/httpapi lets them in.
//
// Package opscenter/lifecycle has the status of a server, the diagram of its transitions, and
// the rules of the recommended action. Packages opscenter/event and opscenter/warning name the
// kinds of events and warnings.
//
// # What a server can cost you
//
// A registered server may be hostile, and so may a stranger. What one of them says, and how often, costs a bounded
// amount. The other servers are served as before. Each budget has a default and a test. Those that can be set are named
// by their option or constant. Package incusostest attacks
// (Server.SetHostile); TestHostile measures one hostile server among a hundred others: at most 64 MiB of memory, with
// the others' polls and inventory as before. What is beyond a budget waits, is refused, or is left out, as the table
// says. Facts and objects that are left out for lack of room are a standing warning.
//
// What a server tells when it is asked:
//
//	budget                                     default        beyond                                   test
//	incusos.DefaultMaxBody, an answer          4 MiB          is not read                              TestEachFault
//	the header of an answer                    64 KiB         is not read                              TestEndlessHeader
//	facts, each part as it is read             4 × its kept   is not read                              TestHostileFacts
//	lifecycle.MaxHardwareSize and others       688 KiB in all is left out, with warning.Facts          TestFactsThatAreTooLarge
//	opscenter.DefaultMaxFactsHistory           20 changes     the oldest go                            TestFactsHistory
//	poller.DefaultTimeout, a poll              30 s           counts as a failure                      TestGrace
//	poller.DefaultSlowConcurrency, slow polls  512            wait for each other, not the others      TestHangingServersDoNotDelayHealthyOnes
//	incusos.DefaultMaxConnsPerServer           4 connections  wait                                     TestConnectionsAreBounded
//
// What is in its Incus. MaxObjects, MaxSize and MaxUnitChanges are for each server of a cluster, MaxStreams is for all
// clusters, the others are for each cluster:
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
//	inventory.DefaultScanTimeout               15 min         is tried again, later each time          TestSlowClusterDelaysNobody
//	inventory.DefaultMaxUnitChanges            1,000          its own oldest go                        TestUnitChanges
//	the removal of a unit                      500 rows a step, beside all else                        TestPurge
//
// What it says by itself:
//
//	opscenter.DefaultSelfUpdateInterval        5 s            what says nothing new is answered only   TestSelfUpdatesAreRationed
//	new things beyond that                     20 at once     opscenter.ErrTooOften                    TestSelfUpdatesAreRationed
//	opscenter.DefaultMaxServerEvents           200            its own oldest go                        TestHistoryCannotBeErased
//	httpapi.DefaultMaxBody, a request          64 KiB         is refused                               TestLimits
//	httpapi.DefaultWriteTimeout, a reader      30 s           is cut off                               TestStreamsThatAreNotRead
//	httpapi.DefaultFailuresPerMinute           30             are turned away                          TestFailedRegistrationsAreLimited
//	httpapi.DefaultMaxDownloads, at a time     1,000          as many wait; then 503                   TestDownloadsAreBounded
//	httpapi.DefaultMaxDownloadsPerAddress      250            wait, likewise                           TestDownloadsAreBounded
//	opscenter.Options.Admit, at a time         64             opscenter.ErrTooOften                    TestAdmissionsAreBounded
//	opscenter.DefaultAdmitTimeout              10 s           is refused                               TestNotAdmitted
//	opscenter.Options.AllowURL                 anywhere       no server may be there                   TestAllowURL
//	incusos.Options.AllowAddress               any            is not connected to                      TestAllowAddress
//
// A server can pass for no other one (TestWhoMayPresentWhat). What many of them can do together: if more than
// opscenter.DefaultGuardShare of the servers fail, the control plane suspects itself, and asks a sample
// (TestPartialAndTotalOutages).
//
// What all of it costs on disk: storage/badgerstore stays within three times what is in it and 256 MiB
// (TestDiskIsGivenBack), takes no write with less than badgerstore.DefaultMinFree left (TestDiskFull,
// TestClosedOnAFullDisk), and opens after a crash with all that was acknowledged (TestKills).
package opscenter
