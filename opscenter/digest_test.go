package opscenter

import (
	"testing"

	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

func BenchmarkFactsDigest(b *testing.B) {
	f := &Facts{Hardware: incusostest.Hardware(1)}
	b.SetBytes(int64(f.Size()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.digest(false); err != nil {
			b.Fatal(err)
		}
	}
}
