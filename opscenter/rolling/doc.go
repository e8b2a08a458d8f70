// Package rolling decides the next step of a rolling operation over servers and clusters. It is pure: the time, the servers
// and their running operations are arguments, and decisions are results.
//
// The same functions serve two purposes. Run on a model of the servers, they make a [Plan]. Run on the real servers, as polls
// see them, they carry out a rollout step by step. Package opscenter makes plans (UpdatePlanner.Plan), and package
// opscenter/rollout carries them out.
//
// A [Unit] is an Incus cluster, or a server that is in no cluster. Its members are worked on one after the other. A [State]
// tells how far all units of a rollout are, wave by wave.
//
// # Performance
//
// A plan updates clusters of ten servers in maintenance windows, with 40 steps for each cluster. Figures are medians of 3 runs on 2 shared cores.
//
//	go test -run '^$' -bench Plan -count 3 ./opscenter/rolling
//
//	  1,000 servers    14.1 µs a server
//	 10,000 servers    13.3 µs a server
//	100,000 servers    16.5 µs a server, 1.65 s for the plan (2 s are wanted)
package rolling
