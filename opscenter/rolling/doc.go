// Package rolling decides the next step of a rolling operation over servers and clusters. It is pure: the time, the servers
// and their running operations are arguments, and decisions are results.
//
// The same functions serve two purposes. Run on a model of the servers, they make a [Plan]. Run on the real servers, as polls
// see them, they carry out a rollout step by step. Package opscenter makes plans (UpdatePlanner.Plan), and package
// opscenter/rollout carries them out.
//
// A [Unit] is an Incus cluster, or a server that is in no cluster. Its members are worked on one after the other. A [State]
// tells how far all units of a rollout are, wave by wave.
package rolling
