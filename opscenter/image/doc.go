// Package image makes installation images: it writes a seed into the seed partition of a published IncusOS image.
//
//	base, err := image.Open(file, size) // an unpacked image, raw or ISO
//	seeded, err := base.With(archive)   // of package seed
//	http.ServeContent(w, r, "", at, seeded.Reader())
//
// A seeded image takes only the memory of its seed: it reads from the base, and replaces the bytes of the seed partition.
// Store keeps unpacked bases on disk. Manager makes images of the update feed's releases for tokens.
//
// # Rules
//
//   - An image is that of the newest update which the token's channel offers. A missing application of the seed refuses the image. For
//     an architecture other than x86_64, the file filter of the feed must pass its files until one such server is registered.
//   - A prepared image keeps the update that was the newest at its preparation, because BMCs read an image in parts for a long time. The
//     rest of a named seed's image is refused if it has changed since this process sent its beginning. If-Range always detects a change.
//   - Images have Content-Length, ETag and Range. An image that is compressed on the way has none of them.
//   - A token that has expired or is used up gives no image. The audit log has an entry for each image (image.make), and at most
//     one per hour for its parts.
//   - The holder of an image can register a server. Options.Public allows seeds whose images need no authentication: their path has
//     a random name. A token with AutoRemove is removed 7 days after it admits no more servers.
//
// # Performance
//
// An image is sent as fast as a copy of its file: 1.0 of that throughput.
//
//	go test -run '^$' -bench Seeded ./opscenter/image
package image
