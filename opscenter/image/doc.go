// Package image makes installation images: it writes a seed into the seed partition of a published IncusOS image.
//
//	base, err := image.Open(file, size) // an unpacked image, raw or ISO
//	seeded, err := base.With(archive)   // of package seed
//	http.ServeContent(w, r, "", at, seeded.Reader())
//
// A seeded image takes only the memory of its seed: it reads from the base, and replaces the bytes of the seed partition.
// Store keeps unpacked bases on disk. Manager makes images of the update feed's releases for tokens.
package image
