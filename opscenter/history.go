package opscenter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Limits of what is kept of a change of facts.
const (
	// MaxFactChanges bounds the values that are kept of one change; FactsChange.More counts the others.
	MaxFactChanges = 100
	// MaxFactValue bounds a value that is kept, in bytes; longer ones are cut.
	MaxFactValue = 256
)

// FactsChange is how the facts of a server changed from one poll to the next.
type FactsChange struct {
	// Number grows by one with each change of the server's facts.
	Number  uint64       `json:"number"`
	At      time.Time    `json:"at"`
	Changes []FactChange `json:"changes"`
	// More is how many further values changed.
	More int `json:"more,omitempty"`
}

// FactChange is a value that changed.
type FactChange struct {
	// Path of the value, as "network.state.interfaces.eth0.mtu" or "storage.state.drives[1].id".
	Path string `json:"path"`
	// From and To are the values as JSON, cut to MaxFactValue; empty: there was, or is, none.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// factsChangeRow is a FactsChange in the store.
type factsChangeRow struct {
	ID     string // the server's
	Number uint64
	At     time.Time
	// Secrets tells that it was written by a Registry that keeps them.
	Secrets bool
	Data    []byte // compressed
}

// FactsHistory returns how a server's facts changed, the newest change first, at most
// Options.MaxFactsHistory of them. What was read first is no change. Errors: ErrNotFound.
func (r *Registry) FactsHistory(ctx context.Context, name string) (out []FactsChange, err error) {
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		out = nil
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		for row, err := range factsHistory.Scan(tx, storage.Range{Prefix: storage.StringKey(server.ID), Reverse: true}) {
			if err != nil {
				return err
			}
			data, err := decoder.DecodeAll(row.Data, nil)
			var change FactsChange
			if err == nil {
				err = json.Unmarshal(data, &change)
			}
			if err != nil {
				return fmt.Errorf("history of the facts of server %q: %w: %v", name, storage.ErrCorrupt, err)
			}
			change.Number, change.At = row.Number, row.At
			if row.Secrets && !r.options.KeepSecrets {
				for i := range change.Changes { // that it changed, and no more
					change.Changes[i].From, change.Changes[i].To = "", ""
				}
			}
			out = append(out, change)
		}
		return nil
	})
	return out, err
}

// changeOfFacts returns the row that tells how facts changed, nil if they did not.
func changeOfFacts(id string, number uint64, at time.Time, before, after *lifecycle.Facts, keepSecrets bool) (*factsChangeRow, error) {
	change := diffFacts(before, after, keepSecrets)
	if len(change.Changes) == 0 {
		return nil, nil
	}
	data, err := json.Marshal(&change)
	if err != nil {
		return nil, err
	}
	return &factsChangeRow{ID: id, Number: number, At: at, Secrets: keepSecrets, Data: encoder.EncodeAll(data, nil)}, nil
}

// recordFactsChange stores how facts changed, and drops what is over the limit.
func (r *Registry) recordFactsChange(tx storage.WriteTx, row *factsChangeRow) error {
	if err := factsHistory.Put(tx, row); err != nil {
		return err
	}
	// By number, without looking for the oldest; more than one only after the limit was lowered.
	limit := uint64(r.options.MaxFactsHistory)
	for number := row.Number; number > limit; number-- {
		err := factsHistory.Delete(tx, storage.StringKey(row.ID).Uint(number-limit))
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteFacts removes the facts of a server, and their history.
func deleteFacts(tx storage.WriteTx, id string) error {
	if err := facts.Delete(tx, storage.StringKey(id)); err != nil && !isNotFound(err) {
		return err
	}
	var numbers []uint64
	for row, err := range factsHistory.Scan(tx, storage.Range{Prefix: storage.StringKey(id)}) {
		if err != nil {
			return err
		}
		numbers = append(numbers, row.Number)
	}
	for _, number := range numbers {
		if err := factsHistory.Delete(tx, storage.StringKey(id).Uint(number)); err != nil {
			return err
		}
	}
	return nil
}

// maxMore bounds how far changes are counted that are not kept.
const maxMore = 1000

// diffFacts lists what differs, but for what changes all the time and, unless they are to be
// kept, secrets.
func diffFacts(before, after *lifecycle.Facts, keepSecrets bool) FactsChange {
	d := differ{keepSecrets: keepSecrets}
	old := partsOf(before)
	for i, part := range partsOf(after) {
		if *old[i].data == nil || *part.data == nil || bytes.Equal(*old[i].data, *part.data) {
			continue // what is read for the first time did not change
		}
		a, errA := parse(*old[i].data)
		b, errB := parse(*part.data)
		if errA != nil || errB != nil {
			continue
		}
		d.path = append(d.path[:0], part.name)
		d.diff(a, b)
	}
	return d.out
}

// differ compares documents. The path to where it is is put together only for what differs.
type differ struct {
	keepSecrets bool
	path        []any // keys and indexes
	out         FactsChange
}

func (d *differ) full() bool { return d.out.More >= maxMore }

// within compares what lies one step further down.
func (d *differ) within(step, from, to any, had, has bool) {
	d.path = append(d.path, step)
	switch {
	case had && has:
		d.diff(from, to)
	case had:
		d.add(from, nil, true, false)
	default:
		d.add(nil, to, false, true)
	}
	d.path = d.path[:len(d.path)-1]
}

func (d *differ) diff(a, b any) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			keys := sortedKeys(x)
			for key := range y {
				if _, both := x[key]; !both {
					keys = append(keys, key)
				}
			}
			slices.Sort(keys)
			for _, key := range keys {
				if isVolatile([]byte(key)) || !d.keepSecrets && isSecret([]byte(key)) {
					continue
				}
				from, had := x[key]
				to, has := y[key]
				if d.within(key, from, to, had, has); d.full() {
					return
				}
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			for i := range max(len(x), len(y)) {
				var from, to any
				if i < len(x) {
					from = x[i]
				}
				if i < len(y) {
					to = y[i]
				}
				if d.within(i, from, to, i < len(x), i < len(y)); d.full() {
					return
				}
			}
			return
		}
	}
	if !reflect.DeepEqual(a, b) {
		d.add(a, b, true, true)
	}
}

func (d *differ) add(from, to any, had, has bool) {
	if len(d.out.Changes) == MaxFactChanges {
		d.out.More++
		return
	}
	change := FactChange{Path: d.where()}
	if had {
		change.From = d.show(from)
	}
	if has {
		change.To = d.show(to)
	}
	d.out.Changes = append(d.out.Changes, change)
}

func (d *differ) where() string {
	var out strings.Builder
	for i, step := range d.path {
		switch step := step.(type) {
		case int:
			fmt.Fprintf(&out, "[%d]", step)
		case string:
			if i > 0 {
				out.WriteByte('.')
			}
			out.WriteString(step[:min(len(step), MaxFactValue)])
		}
		if out.Len() > MaxFactValue {
			break
		}
	}
	return truncate.Text(out.String(), MaxFactValue)
}

// show returns a value as JSON, cut, without secrets unless they are to be kept.
func (d *differ) show(value any) string {
	data, err := encodePlain(value)
	if err == nil && !d.keepSecrets {
		data, err = RedactSecrets(data)
	}
	if err != nil {
		return ""
	}
	return truncate.Text(string(data), MaxFactValue)
}
