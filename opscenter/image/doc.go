// Package image makes installation images: IncusOS's own, with a seed in their seed partition.
//
//	base, err := image.Open(file, size) // an unpacked image, raw or ISO
//	seeded, err := base.With(archive)   // of package seed
//	http.ServeContent(w, r, "", at, seeded.Reader())
//
// A seeded image costs no more than its seed: it is the base, of which the bytes of the archive are others. Store keeps bases
// unpacked.
package image
