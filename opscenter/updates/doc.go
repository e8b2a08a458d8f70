// Package updates is the update feed of a control plane. It mirrors the releases of IncusOS and its applications, or takes
// them as uploads. It keeps them, puts them into channels, and serves them. A freshly installed server fetches its
// applications here before it registers.
//
//	files, err := updates.NewDir("/var/lib/opscenter/updates")
//	defer files.Close()
//	feed, err := updates.New(ctx, registry, files, updates.Options{})
//	group.Go(func() error { return feed.Run(ctx) }) // fetches now, and every hour
//	handler, err := httpapi.New(registry, httpapi.Options{Updates: feed, …})
//
// What becomes of an update:
//
//	in the source's index ─ filter, retention ─▶ pending ─ all files here, sums right ─▶ ready ─▶ in its channels
//	uploaded as a tar, signature and sums right ───────────────────────────────────────▶ ready ─▶ in its channels
//
// Only ready updates are shown to servers. A new one is put into Settings.DefaultChannel, unless it lacks a component
// that a server or a token of that channel needs: then it is held back, with opscenter.WarningUpdateHeld, until it does
// not, or an operator puts it there all the same. SetChannels is the promotion from one channel to another.
//
// A server walks through the list, which is newest first, and takes the first update that is in its channel: all that it
// gets comes from that one. What a channel offers is therefore what its newest update provides, and nothing of older
// ones: that is what opscenter.Registry compares with what servers run.
//
// The description of an update is signed, and names the SHA-256 of each of its files. Nothing is believed before the
// signature is verified (see Trust), and no file is kept whose sum is another. Servers verify what they install once
// more, against keys of their own.
package updates
