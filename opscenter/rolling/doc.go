// Package rolling decides what a rolling operation over servers and clusters does next. It is
// pure: time, servers and what is under way come in as values, decisions go out as values.
// The same functions make a plan, run forward on a model of the servers, and carry out a
// rollout, step by step, on what polls tell of the real ones. Package opscenter makes plans of
// it (UpdatePlanner.Plan), package opscenter/rollout carries them out.
//
// A [Unit] is what is rolled through one server after the other: an Incus cluster, or a server
// that is in none. A [State] is how far all units of one rollout are, wave by wave.
package rolling
