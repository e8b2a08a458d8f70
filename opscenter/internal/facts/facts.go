package facts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
	"github.com/opscenter-go/sdk/opscenter/internal/sums"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Both are made when the program begins, because they hold channels. At their first use, the channels would belong to the
// synctest bubble of that test.
var decoder, encoder = newDecoder(), newEncoder()

func newDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}

func newEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(2),
		zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	_ = e.EncodeAll(nil, nil) // makes its channel
	return e
}

// Compress returns data in the form in which facts are stored.
func Compress(data []byte) []byte { return AppendCompressed(nil, data) }

// AppendCompressed appends data to dst in the form that Compress returns.
func AppendCompressed(dst, data []byte) []byte { return encoder.EncodeAll(data, dst) }

// Decompress returns the data that Compress was given.
func Decompress(data []byte) ([]byte, error) { return decoder.DecodeAll(data, nil) }

type factsPart struct {
	name string
	data *json.RawMessage
}

// parts names the parts in a fixed order.
func partsOf(f *lifecycle.Facts) [4]factsPart {
	return [4]factsPart{{"hardware", &f.Hardware}, {"network", &f.Network}, {"security", &f.Security}, {"storage", &f.Storage}}
}

// Sums is the digest of each part of facts, without secrets and values that change all the time. 0: the part was not
// read.
type Sums sums.Parts

// buffers for digests: facts are as large as they are many.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxBuffer bounds the buffers that are kept, in bytes.
const maxBuffer = 256 << 10

func release(buffer *[]byte) {
	if cap(*buffer) <= maxBuffer {
		buffers.Put(buffer)
	}
}

// SumsOf returns the digests of facts, without secrets unless they are to be kept.
func SumsOf(f *lifecycle.Facts, keepSecrets bool) (out Sums, err error) {
	if isKnown(f, keepSecrets) {
		return Sums(f.Sums.Parts), nil
	}
	buffer := buffers.Get().(*[]byte)
	defer release(buffer)
	drop := outsideDigest
	if keepSecrets {
		drop = isVolatile
	}
	for i, part := range partsOf(f) {
		if *part.data == nil {
			continue
		}
		if *buffer, _, err = jsonfilter.Append((*buffer)[:0], *part.data, drop); err != nil {
			return out, fmt.Errorf("%s facts: %w", part.name, err)
		}
		out[i] = max(1, xxhash.Sum64(*buffer))
	}
	return out, nil
}

// outsideDigest reports whether a value is outside of digests: a secret, or a value that changes all the time.
func outsideDigest(key []byte) bool { return isVolatile(key) || isSecret(key) }

// Redaction is the number of the rules by which Clean finds secrets. Raise it when they find more: facts that were stored by
// earlier rules are then redacted again.
const Redaction = 1

// Clean returns facts in compact form, without secrets unless they are to be kept. It leaves out a part that is not JSON,
// because it can't be redacted.
func Clean(f *lifecycle.Facts, keepSecrets bool) *lifecycle.Facts {
	if isKnown(f, keepSecrets) {
		return f
	}
	drop := dropped(keepSecrets)
	out := *f
	out.Sums = nil
	for _, part := range partsOf(&out) {
		if *part.data == nil {
			continue
		}
		clean, _, err := jsonfilter.Append(make([]byte, 0, len(*part.data)), *part.data, drop)
		if err != nil {
			clean = nil
		}
		*part.data = clean
	}
	return &out
}

// isKnown reports whether facts are clean, with their sums.
func isKnown(f *lifecycle.Facts, keepSecrets bool) bool {
	if f.Sums == nil || f.Sums.KeepSecrets != keepSecrets {
		return false
	}
	for i, part := range partsOf(f) {
		if len(*part.data) != f.Sums.Sizes[i] || unsafe.SliceData(*part.data) != f.Sums.First[i] {
			return false // a program has replaced the part
		}
	}
	return true
}

// dropped returns which members Clean drops.
func dropped(keepSecrets bool) func(key []byte) bool {
	if keepSecrets {
		return func([]byte) bool { return false }
	}
	return isSecret
}

// Part is the place of a part in Facts and in its sums.
type Part int

// The parts in their order.
const (
	Hardware Part = iota
	Network
	Security
	Storage
)

// Read sets a part of facts to the member "metadata" of an answer, and its sum: in clean form, in one pass. It calls use
// for the other members. found: there was an object to set the part to. It returns an error for an answer that is not one
// JSON object.
func Read(f *lifecycle.Facts, part Part, answer []byte, keepSecrets bool, use func(key, value []byte)) (found bool, err error) {
	clean, sum, err := jsonfilter.MembersSum(make([]byte, 0, len(answer)), answer, "metadata", dropped(keepSecrets), isVolatile, use)
	if err != nil || !bytes.HasPrefix(clean, []byte("{")) {
		return false, err
	}
	if f.Sums == nil {
		f.Sums = &sums.Known{KeepSecrets: keepSecrets}
	}
	*partsOf(f)[part].data, f.Sums.Parts[part] = clean, max(1, sum)
	f.Sums.First[part], f.Sums.Sizes[part] = unsafe.SliceData(clean), len(clean)
	return true, nil
}

// Readable returns facts without the parts that are not JSON, and the error of each.
func Readable(f *lifecycle.Facts) (out *lifecycle.Facts, unread []string) {
	out = f
	for i, part := range partsOf(f) {
		if *part.data == nil || json.Valid(*part.data) {
			continue
		}
		if out == f {
			all := *f
			all.Sums = nil
			out = &all
		}
		*partsOf(out)[i].data = nil
		unread = append(unread, part.name+" facts: not JSON")
	}
	return out, unread
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

// Merge returns the stored facts with the parts that were read in their places, and their stored form: their members, see
// AppendMembers, as a zstd frame. Both facts must be clean, see Clean.
func Merge(before, read *lifecycle.Facts) (merged *lifecycle.Facts, data []byte) {
	all := *before
	from := partsOf(read)
	for i, part := range partsOf(&all) {
		if *from[i].data != nil {
			*part.data = *from[i].data
		}
	}
	all.ReadAt = time.Time{}
	fits, _ := Reduced(&all) // earlier releases may have stored larger parts
	buffer := buffers.Get().(*[]byte)
	*buffer = AppendMembers((*buffer)[:0], fits)
	data = Compress(*buffer)
	release(buffer)
	return fits, data
}

// Combine replaces, in a stored hash, the parts that were read: "hardware=… network=…".
func (d Sums) Combine(stored string) string {
	known := map[string]string{}
	for entry := range bytes.FieldsSeq([]byte(stored)) {
		name, sum, _ := bytes.Cut(entry, []byte("="))
		known[string(name)] = string(sum)
	}
	for i, part := range partsOf(&lifecycle.Facts{}) {
		if d[i] != 0 {
			known[part.name] = strconv.FormatUint(d[i], 16)
		}
	}
	var out []byte
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if len(out) > 0 {
			out = append(out, ' ')
		}
		out = fmt.Appendf(out, "%s=%s", name, known[name])
	}
	return string(out)
}

// RedactSecrets returns a JSON document without the values of secrets, at any depth. It returns an error for other data.
func RedactSecrets(data json.RawMessage) (json.RawMessage, error) {
	out, removed, err := jsonfilter.Append(make([]byte, 0, len(data)), data, isSecret)
	if err != nil {
		return nil, err
	}
	if !removed {
		return data, nil
	}
	return out, nil
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

// isSecret recognizes a secret by its name. Secrets are keys that are not public, recovery keys of drives and pools
// (IncusOS security API), and keys of WireGuard interfaces and peers. Passwords of proxies, wake-on-LAN (network API) and
// BMCs, and tokens (provider API) are secrets, too.
func isSecret(key []byte) bool {
	n := len(key)
	if n < len("key") {
		return false
	}
	// The last two letters of nearly all keys show that they are no secrets.
	switch (uint16(key[n-2])<<8 | uint16(key[n-1])) | 0x2020 {
	case 'r'<<8 | 'd', 's'<<8 | 'e', 'e'<<8 | 't', 'e'<<8 | 'y', 'y'<<8 | 's', 'e'<<8 | 'n', 'n'<<8 | 's', 'n'<<8 | 'g', 'g'<<8 | 's', 't'<<8 | 's', 'd'<<8 | 's':
	default:
		return false
	}
	for _, ending := range secretEndings {
		if hasEnding(key, ending) {
			return true
		}
	}
	for _, ending := range keyEndings {
		if hasEnding(key, ending) && (n == len(ending) || key[n-len(ending)-1] == '_') {
			return !hasEnding(key[:n-len(ending)], publicPrefix)
		}
	}
	return false
}

func hasEnding(key, ending []byte) bool {
	return len(key) >= len(ending) && bytes.EqualFold(key[len(key)-len(ending):], ending)
}

// IsSecretName reports whether the value of that name in a JSON document counts as a secret.
func IsSecretName(name string) bool { return isSecret([]byte(name)) }

// secretEndings end the names of secrets; keyEndings too, where they are whole words and no public keys.
var (
	secretEndings = [][]byte{[]byte("password"), []byte("passwords"), []byte("passphrase"), []byte("secret"), []byte("secrets"), []byte("token"), []byte("tokens"), []byte("keyring"), []byte("keyrings")}
	keyEndings    = [][]byte{[]byte("key"), []byte("keys")}
	publicPrefix  = []byte("public_")
)

// isVolatile recognizes, by its name, a value that changes from poll to poll without news: counters, free space, uptimes,
// ages of LLDP neighbours.
func isVolatile(key []byte) bool {
	switch string(key) {
	case "stats", "counters", "load", "uptime", "last_check",
		"used", "free", "available", "usage", "hugepages_used",
		"usage_in_bytes", "available_in_bytes", "usable_pool_size_in_bytes", "raw_read_error_rate", "seek_error_rate", "pool_allocated_space_in_bytes", "raw_pool_size_in_bytes_used",
		"power_on_hours", "data_units_read", "data_units_written", "temperature",
		"ttl", "age", "frequency", "last_handshake", "latest_handshake", "rx_bytes", "tx_bytes", "progress":
		return true
	}
	return false
}
