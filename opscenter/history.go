package opscenter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

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
	Data   []byte // compressed
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
			out = append(out, change)
		}
		return nil
	})
	return out, err
}

// recordFactsChange stores how facts changed, if they did, and drops what is over the limit.
func (r *Registry) recordFactsChange(tx storage.WriteTx, id string, number uint64, at time.Time, before, after *Facts) (changed bool, err error) {
	change := diffFacts(before, after)
	if len(change.Changes) == 0 {
		return false, nil
	}
	data, err := json.Marshal(&change)
	if err != nil {
		return false, err
	}
	row := &factsChangeRow{ID: id, Number: number, At: at, Data: encoder.EncodeAll(data, nil)}
	if err := factsHistory.Put(tx, row); err != nil {
		return false, err
	}
	// By number, without looking for the oldest; more than one only after the limit was lowered.
	for limit := uint64(r.options.MaxFactsHistory); number > limit; number-- {
		err := factsHistory.Delete(tx, storage.StringKey(id).Uint(number-limit))
		if isNotFound(err) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
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

// diffFacts lists what differs, but for what changes all the time.
func diffFacts(before, after *Facts) (out FactsChange) {
	old := before.parts()
	for i, part := range after.parts() {
		if *old[i].data == nil || *part.data == nil || bytes.Equal(*old[i].data, *part.data) {
			continue // what is read for the first time did not change
		}
		a, errA := parse(*old[i].data)
		b, errB := parse(*part.data)
		if errA != nil || errB != nil {
			continue
		}
		out.diff(part.name, a, b)
	}
	return out
}

func (c *FactsChange) diff(path string, a, b any) {
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
				if isVolatile([]byte(key)) {
					continue
				}
				from, had := x[key]
				to, has := y[key]
				switch {
				case had && has:
					c.diff(path+"."+key, from, to)
				case had:
					c.add(path+"."+key, shorten(from), "")
				default:
					c.add(path+"."+key, "", shorten(to))
				}
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			for i := range max(len(x), len(y)) {
				at := fmt.Sprintf("%s[%d]", path, i)
				switch {
				case i >= len(y):
					c.add(at, shorten(x[i]), "")
				case i >= len(x):
					c.add(at, "", shorten(y[i]))
				default:
					c.diff(at, x[i], y[i])
				}
			}
			return
		}
	}
	if from, to := plainJSON(a), plainJSON(b); from != to {
		c.add(path, cutTo(from, MaxFactValue), cutTo(to, MaxFactValue))
	}
}

func (c *FactsChange) add(path, from, to string) {
	if len(c.Changes) == MaxFactChanges {
		c.More++
		return
	}
	c.Changes = append(c.Changes, FactChange{Path: cutTo(path, MaxFactValue), From: from, To: to})
}

func shorten(value any) string { return cutTo(plainJSON(value), MaxFactValue) }

func plainJSON(value any) string {
	data, err := encodePlain(value)
	if err != nil {
		return ""
	}
	return string(data)
}
