package lifecycle

import (
	"encoding/json"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/sums"
)

// Facts are the large data about a server. Each part is as the server's API returned it, without secrets. A part that was
// never read is nil.
type Facts struct {
	// Hardware is the answer of the resources APIs of Incus and IncusOS.
	Hardware json.RawMessage `json:"hardware,omitempty"`
	// Network, Security and Storage are the answers of IncusOS's system APIs.
	Network  json.RawMessage `json:"network,omitempty"`
	Security json.RawMessage `json:"security,omitempty"`
	Storage  json.RawMessage `json:"storage,omitempty"`
	// ReadAt is when the stored facts last changed.
	ReadAt time.Time `json:"read_at,omitzero"`
	// Sums is set by the prober of package incusos, which digests the parts while it reads them. The Registry computes it if
	// it is nil. A program that modifies a part sets it to nil.
	Sums *sums.Known `json:"-"`
}

// Size returns the size of all parts together, in bytes.
func (f *Facts) Size() int {
	return len(f.Hardware) + len(f.Network) + len(f.Security) + len(f.Storage)
}

// Limits of the parts of Facts, in bytes, before compression. Facts that can't be compressed at all still fit into one row
// of a store. Of a larger part, the largest members are left out until it fits; the other parts are kept whole, and
// warning.Facts says which members were left out.
const (
	MaxHardwareSize = 384 << 10
	MaxNetworkSize  = 128 << 10
	MaxSecuritySize = 48 << 10
	MaxStorageSize  = 128 << 10
	// MaxFactsSize is the sum of them, with room for their names.
	MaxFactsSize = MaxHardwareSize + MaxNetworkSize + MaxSecuritySize + MaxStorageSize + 1<<10
)
