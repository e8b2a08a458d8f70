// Package sums holds digests of facts. It is a package of its own because the facts, which package lifecycle declares, carry
// them from the poll that computed them.
package sums

// Parts are the digests of the parts of facts: hardware, network, security, storage. 0: the part was not read.
type Parts [4]uint64

// Known are the digests of facts that are in their stored form: compact JSON, without secrets unless KeepSecrets is set.
type Known struct {
	Parts       Parts
	KeepSecrets bool
	// First are the addresses of the first bytes of the parts, and Sizes their sizes. A part at another place is another one.
	First [4]*byte
	Sizes [4]int
}
