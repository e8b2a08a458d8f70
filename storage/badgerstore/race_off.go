//go:build !race

package badgerstore

const collectAlone = false
