package opscenter

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// factsChangeRow is a stored lifecycle.FactsRevision.
type factsChangeRow struct {
	ID     string // the server's
	Number uint64
	At     time.Time
	// Secrets: a Registry with Options.KeepSecrets wrote it.
	Secrets bool
	Data    []byte // compressed
}

// FactsHistory returns the changes of a server's facts, the newest first, at most Options.MaxFactsHistory of them. The
// first reading of a part is no change. Errors: ErrNotFound.
func (s *Snapshot) FactsHistory(name string) (out []lifecycle.FactsRevision, err error) {
	server, err := servers.Get(s, nameKey(name))
	if err != nil {
		return nil, notFound("server", name, err)
	}
	for row, err := range factsHistory.Scan(s, storage.Range{Prefix: storage.StringKey(server.ID), Reverse: true}) {
		if err != nil {
			return nil, err
		}
		data, err := facts.Decompress(row.Data)
		var change lifecycle.FactsRevision
		if err == nil {
			err = json.Unmarshal(data, &change)
		}
		if err != nil {
			return nil, fmt.Errorf("history of the facts of server %q: %w: %v", name, storage.ErrCorrupt, err)
		}
		change.Number, change.At = row.Number, row.At
		if row.Secrets && !s.registry.options.KeepSecrets {
			for i := range change.Changes { // the paths stay, without the values
				change.Changes[i].From, change.Changes[i].To = "", ""
			}
		}
		out = append(out, change)
	}
	return out, nil
}

// changeOfFacts returns the row of a change of facts. nil: the facts are equal.
func changeOfFacts(id string, number uint64, at time.Time, before, after *lifecycle.Facts, keepSecrets bool) (*factsChangeRow, error) {
	change := facts.Diff(before, after, keepSecrets)
	if len(change.Changes) == 0 {
		return nil, nil
	}
	data, err := json.Marshal(&change)
	if err != nil {
		return nil, err
	}
	return &factsChangeRow{ID: id, Number: number, At: at, Secrets: keepSecrets, Data: facts.Compress(data)}, nil
}

// recordFactsChange stores a change of facts, and deletes those over the limit.
func (r *Registry) recordFactsChange(tx storage.WriteTx, row *factsChangeRow) error {
	if err := factsHistory.Put(tx, row); err != nil {
		return err
	}
	// The numbers are consecutive. More than one row is over the limit only after the limit was lowered.
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

// deleteFacts deletes the facts of a server, and their history.
func deleteFacts(tx storage.WriteTx, id string) error {
	if err := factsTable.Delete(tx, storage.StringKey(id)); err != nil && !isNotFound(err) {
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
