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
//
// # Rules
//
//   - The source's index must be signed under the root certificate of IncusOS, or under that of Options.Trust. An index that is older
//     than the last one is refused, unless a refresh is forced.
//   - A signing certificate that ends within 90 days raises a warning. Signatures made before its end count for 30 more days.
//   - A download continues where it was cut, also after a restart. A broken file holds up its own update only, and the warning names it.
//   - The default channel is stable, which is also that of new servers. Set Settings.DefaultChannel to testing to try updates first.
//   - A server whose update leaves its channel is not downgraded.
//   - The three newest updates of each channel and component are kept, and so are those that servers run or channels offer.
//   - Filters are expressions, as those of Operations Center. Files for all architectures, and for those of the registered servers,
//     pass a filter that names another architecture.
//   - A changelog tells which packages changed: in an update, in a channel, or for a server.
//   - One process at a time uses the directory of the files, and it belongs to one store. The files are verified each week. Damaged files
//     are fetched again. Files is the interface for another place, and package filestest tests its implementations.
//
// # Without access to the internet
//
// Start the control plane without a source, as examples/controlplane does with -source none. Updates that are signed under another root
// certificate need -source-root, too. Where there is access, fetch the description of an update, and the files that it names:
//
//	from=https://images.linuxcontainers.org/os/202610150000   # the version
//	curl -fO $from/update.sjson
//	openssl smime -verify -noverify -in update.sjson | tail -n +3 | jq -r '.files[].filename' |
//	  while read -r file; do curl -f --create-dirs -o "$file" "$from/$file"; done
//	tar -cf ../update.tar *
//
// Upload the archive, which puts the update into the default channel:
//
//	curl --unix-socket /run/opscenter.sock -X POST -H 'Content-Type: application/x-tar' -T update.tar \
//	  http://opscenter/1.0/provisioning/updates
//
// Files may be left out. The update then tells how many of the described files it has, and a later upload adds others. The list with
// status=pending shows updates that lack files.
//
// # Performance
//
// Package httpapi sends files as fast as http.ServeFile: 1.0 of its throughput to 64 clients, with TLS and without. A thousand servers in
// the middle of a file cost 180 KiB each. The verification of a mirror takes as long as its SHA-256 alone.
//
//	go test -run '^$' -bench 'Verify|Downloads' -benchtime 3x -count 3 ./opscenter/updates
package updates
