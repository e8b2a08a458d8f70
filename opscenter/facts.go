package opscenter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/opscenter-go/sdk/storage"
)

// Facts is what is large about a server, each part as the server's API gives it, without
// secrets. A part that was never read is nil.
type Facts struct {
	// Hardware is what Incus's and IncusOS's resources APIs return.
	Hardware json.RawMessage `json:"hardware,omitempty"`
	// Network, Security and Storage are what IncusOS's system APIs return.
	Network  json.RawMessage `json:"network,omitempty"`
	Security json.RawMessage `json:"security,omitempty"`
	Storage  json.RawMessage `json:"storage,omitempty"`
	// ReadAt is when the stored facts last changed.
	ReadAt time.Time `json:"read_at,omitzero"`
}

// MaxFactsSize bounds the facts of a server, in bytes, before compression: what can't be
// compressed at all still fits into a row. Larger ones are not stored, and logged.
const MaxFactsSize = 700 << 10

func (f *Facts) size() int {
	return len(f.Hardware) + len(f.Network) + len(f.Security) + len(f.Storage)
}

// factsRow keeps facts compressed.
type factsRow struct {
	ID     string // the server's
	ReadAt time.Time
	Data   []byte
}

// ServerFacts returns the facts of a server. ErrNotFound if there is no such server; empty
// facts if none have been read.
func (r *Registry) ServerFacts(ctx context.Context, name string) (*Facts, error) {
	info, err := r.Server(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.FactsOf(ctx, info)
}

// FactsOf returns the facts of a server that was found before, whatever its name is by now;
// empty facts if none have been read, or it was removed.
func (r *Registry) FactsOf(ctx context.Context, info *ServerInfo) (*Facts, error) {
	var row *factsRow
	err := r.store.View(ctx, func(tx storage.ReadTx) (err error) {
		row, err = facts.Find(tx, storage.StringKey(info.ID))
		return err
	})
	if err != nil {
		return nil, err
	}
	if row == nil {
		return &Facts{}, nil
	}
	return row.open()
}

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
})

var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(2),
		zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
})

func (f *factsRow) open() (*Facts, error) {
	data, err := decoder().DecodeAll(f.Data, nil)
	if err != nil {
		return nil, fmt.Errorf("facts of server ID %s: %w: %v", f.ID, storage.ErrCorrupt, err)
	}
	out := &Facts{}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("facts of server ID %s: %w: %v", f.ID, storage.ErrCorrupt, err)
	}
	out.ReadAt = f.ReadAt
	return out, nil
}

// preparedFacts is what becomes of the facts of an observation.
type preparedFacts struct {
	facts Facts
	// hash of each part that was read, without what changes all the time.
	hash map[string]string
}

// parts names the parts in a fixed order.
func (f *Facts) parts() []struct {
	name string
	data *json.RawMessage
} {
	return []struct {
		name string
		data *json.RawMessage
	}{{"hardware", &f.Hardware}, {"network", &f.Network}, {"security", &f.Security}, {"storage", &f.Storage}}
}

// prepareFacts removes secrets, unless they are to be kept, and hashes what doesn't change by itself.
func prepareFacts(in *Facts, keepSecrets bool) (*preparedFacts, error) {
	out := &preparedFacts{facts: *in, hash: map[string]string{}}
	for _, part := range out.facts.parts() {
		if *part.data == nil {
			continue
		}
		doc, err := parse(*part.data)
		if err != nil {
			return nil, fmt.Errorf("%s facts: %w", part.name, err)
		}
		if !keepSecrets && removeSecrets(doc) {
			if *part.data, err = encodePlain(doc); err != nil {
				return nil, err
			}
		}
		removeVolatile(doc)
		steady, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(steady)
		out.hash[part.name] = hex.EncodeToString(sum[:8])
	}
	return out, nil
}

func parse(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // large counters stay what they are
	var doc any
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	return doc, nil
}

// merge returns the row that holds what was read over what was stored, and the hash of all of it.
func (p *preparedFacts) merge(old *factsRow, id string, at time.Time) (*factsRow, error) {
	merged := Facts{}
	if old != nil {
		before, err := old.open()
		if err != nil {
			return nil, err
		}
		merged = *before
	}
	read := p.facts.parts()
	for i, part := range merged.parts() {
		if *read[i].data != nil {
			*part.data = *read[i].data
		}
	}
	merged.ReadAt = time.Time{}
	var data bytes.Buffer
	plain := json.NewEncoder(&data)
	plain.SetEscapeHTML(false) // which would make six bytes of one
	if err := plain.Encode(&merged); err != nil {
		return nil, err
	}
	if data.Len() > MaxFactsSize {
		return nil, fmt.Errorf("facts of %d bytes, at most %d are allowed: %w", data.Len(), MaxFactsSize, ErrTooLong)
	}
	return &factsRow{ID: id, ReadAt: at, Data: encoder().EncodeAll(data.Bytes(), nil)}, nil
}

// combineHash replaces, in a stored hash, the parts that were read: "hardware=… network=…".
func (p *preparedFacts) combineHash(stored string) string {
	known := map[string]string{}
	for entry := range bytes.FieldsSeq([]byte(stored)) {
		name, sum, _ := bytes.Cut(entry, []byte("="))
		known[string(name)] = string(sum)
	}
	for name, sum := range p.hash {
		known[name] = sum
	}
	var out []byte
	for _, name := range sortedKeys(known) {
		if len(out) > 0 {
			out = append(out, ' ')
		}
		out = fmt.Appendf(out, "%s=%s", name, known[name])
	}
	return string(out)
}

// RedactSecrets returns a JSON document without the values of secrets, wherever in it they are.
// What is not JSON is not returned, but its error.
func RedactSecrets(data json.RawMessage) (json.RawMessage, error) {
	doc, err := parse(data)
	if err != nil {
		return nil, err
	}
	if !removeSecrets(doc) {
		return data, nil
	}
	return encodePlain(doc)
}

func encodePlain(doc any) (json.RawMessage, error) {
	var out bytes.Buffer
	plain := json.NewEncoder(&out)
	plain.SetEscapeHTML(false)
	if err := plain.Encode(doc); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// isSecret goes by the name of a value: recovery keys of drives and pools (IncusOS security
// API), keys of WireGuard interfaces and peers, passwords of proxies and of wake-on-LAN
// (network API), of BMCs, and tokens (provider API).
func isSecret(key string) bool {
	key = strings.ToLower(key)
	for _, ending := range []string{"password", "passphrase", "secret", "private_key", "preshared_key", "encryption_key", "recovery_key", "recovery_keys", "token"} {
		if strings.HasSuffix(key, ending) {
			return true
		}
	}
	return false
}

// removeSecrets removes secrets in place, and reports whether there were any.
func removeSecrets(doc any) (found bool) {
	switch d := doc.(type) {
	case map[string]any:
		for key, value := range d {
			if isSecret(key) {
				delete(d, key)
				found = true
			} else if removeSecrets(value) {
				found = true
			}
		}
	case []any:
		for _, value := range d {
			if removeSecrets(value) {
				found = true
			}
		}
	}
	return found
}

// volatileKeys name what changes by itself from poll to poll, and says nothing new.
var volatileKeys = map[string]bool{
	"stats": true, "counters": true, "load": true, "uptime": true, "last_check": true,
	"used": true, "free": true, "available": true, "usage": true, "hugepages_used": true,
	"usage_in_bytes": true, "pool_allocated_space_in_bytes": true, "raw_pool_size_in_bytes_used": true,
	"power_on_hours": true, "data_units_read": true, "data_units_written": true, "temperature": true,
	"ttl": true, "age": true, "frequency": true, "last_handshake": true, "rx_bytes": true, "tx_bytes": true,
	"progress": true,
}

func removeVolatile(doc any) {
	switch d := doc.(type) {
	case map[string]any:
		for key, value := range d {
			if volatileKeys[key] {
				delete(d, key)
			} else {
				removeVolatile(value)
			}
		}
	case []any:
		for _, value := range d {
			removeVolatile(value)
		}
	}
}
