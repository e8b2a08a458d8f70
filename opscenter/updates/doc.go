// Package updates is the update feed of a control plane. It mirrors the releases of IncusOS and its applications from a
// Source, or takes them as uploads. It stores them, puts them into channels, and serves them. A freshly installed server
// fetches its applications from the feed before it registers.
//
//	files, err := updates.NewDir("/var/lib/opscenter/updates")
//	defer files.Close()
//	feed, err := updates.New(ctx, registry, files, updates.Options{})
//	group.Go(func() error { return feed.Run(ctx) }) // fetches now, and every hour
//	handler, err := httpapi.New(registry, httpapi.Options{Updates: feed, …})
//
// The states of an update:
//
//	in the source's index ─ filter, retention ─▶ pending ─ all files stored, sums match ─▶ ready ─▶ in its channels
//	uploaded as a tar, signature and sums match ─────────────────────────────────────────▶ ready ─▶ in its channels
//
// Servers see only ready updates. The Manager puts a new update into Settings.DefaultChannel. If the update lacks a
// component that a server or a token of that channel needs, the Manager holds it back and raises
// warning.UpdateHeld. A held update enters the channel once nothing is lacking, or when an operator puts it
// there with SetChannels. SetChannels also promotes an update from one channel to another.
//
// A server reads the list of updates, newest first, and takes the first one that is in its channel. It takes every
// component from that one update. A channel therefore offers the components of its newest update, and none of older
// updates. opscenter.Registry compares these versions with the versions that servers run.
//
// The description of an update is signed and contains the SHA-256 of each file. The Manager verifies the signature before
// it uses a description (see Trust), and stores a file only if its sum matches. Servers verify again when they install,
// against keys built into IncusOS.
package updates
