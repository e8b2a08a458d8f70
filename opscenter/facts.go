package opscenter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// architectureOf returns the architecture of the processor, by the name that IncusOS and its update feed use. Empty: the
// hardware facts do not tell it.
func architectureOf(f *lifecycle.Facts) string {
	var hardware struct {
		CPU struct {
			Architecture string `json:"architecture"`
		} `json:"cpu"`
	}
	if json.Unmarshal(f.Hardware, &hardware) != nil || checkObjectName("architecture", hardware.CPU.Architecture) != nil {
		return ""
	}
	return hardware.CPU.Architecture
}

// factsRow is the stored facts of a server.
type factsRow struct {
	ID     string // the server's
	ReadAt time.Time
	// Data is a zstd frame: of the members that the REST API shows if Members is set, else in the form of earlier releases.
	Data []byte
	// Changes is how often the facts have changed: the number of the last change.
	Changes uint64
	Members bool
	// Redaction is the number of the rules by which secrets were removed, see facts.Redaction. 0: the facts may have secrets.
	Redaction uint8
	// Checksum is the xxhash of Data. 0: an earlier release wrote the row.
	Checksum uint64
}

// ServerFacts returns the facts of a server. Facts that no poll has read are empty. Without Options.KeepSecrets they have
// no secrets. Errors: ErrNotFound.
func (r *Registry) ServerFacts(ctx context.Context, name string) (out *lifecycle.Facts, err error) {
	err = r.Read(ctx, func(s *Snapshot) error {
		info, err := s.Server(name)
		if err == nil {
			out, err = s.Facts(info)
		}
		return err
	})
	return out, err
}

// Facts returns the facts of a server by its ID, also if it was renamed. The facts are empty if no poll has read any, or
// the server was removed.
func (s *Snapshot) Facts(info *ServerInfo) (*lifecycle.Facts, error) {
	row, err := factsTable.Find(s, storage.StringKey(info.ID))
	if err != nil || row == nil {
		return &lifecycle.Facts{}, err
	}
	return row.show(s.registry.options.KeepSecrets)
}

// AppendFacts appends the facts of a server to dst as members of a JSON object, without braces: os_data, and hardware_data if
// it was read. The facts are stored in this form, so it costs less than Facts. Errors: those of the store, and
// storage.ErrCorrupt.
func (s *Snapshot) AppendFacts(dst []byte, info *ServerInfo) ([]byte, error) {
	row, whole, err := s.shownFacts(info)
	if err != nil {
		return dst, err
	}
	if row == nil {
		return facts.AppendMembers(dst, whole), nil
	}
	out, err := facts.AppendOpen(dst, row.Data)
	if err != nil {
		return dst, row.corrupt(err)
	}
	return out, nil
}

// ZstdFacts returns the members that AppendFacts appends as a zstd frame. The frame is stored so, and shared: it must not be
// modified. Errors: those of AppendFacts.
func (s *Snapshot) ZstdFacts(info *ServerInfo) ([]byte, error) {
	row, whole, err := s.shownFacts(info)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return facts.Compress(facts.AppendMembers(nil, whole)), nil
	}
	return row.Data, nil
}

// shownFacts returns the facts of a server as the row that has them in the form of the REST API, else as they are.
func (s *Snapshot) shownFacts(info *ServerInfo) (row *factsRow, whole *lifecycle.Facts, err error) {
	row, err = factsTable.Find(s, storage.StringKey(info.ID))
	if err != nil || row == nil {
		return nil, &lifecycle.Facts{}, err
	}
	keepSecrets := s.registry.options.KeepSecrets
	if row.Members && (row.Redaction == facts.Redaction || keepSecrets) {
		return row, nil, row.check()
	}
	whole, err = row.show(keepSecrets)
	return nil, whole, err
}

// same reports whether two rows are the same version of the same facts.
func (f *factsRow) same(other *factsRow) bool {
	if f == nil || other == nil {
		return f == other
	}
	return f.Changes == other.Changes && f.ReadAt.Equal(other.ReadAt) && bytes.Equal(f.Data, other.Data)
}

func (f *factsRow) corrupt(err error) error {
	return fmt.Errorf("facts of server ID %s: %w: %v", f.ID, storage.ErrCorrupt, err)
}

// check returns storage.ErrCorrupt for data that was damaged.
func (f *factsRow) check() error {
	if f.Checksum != 0 && f.Checksum != max(1, xxhash.Sum64(f.Data)) {
		return f.corrupt(errors.New("wrong checksum"))
	}
	return nil
}

// show returns the facts, without secrets unless they are to be kept: an earlier Registry may have kept them.
func (f *factsRow) show(keepSecrets bool) (*lifecycle.Facts, error) {
	open := facts.OpenEarlier
	if f.Members {
		open = facts.Open
	}
	err := f.check()
	if err != nil {
		return nil, err
	}
	out, err := open(f.Data)
	if err != nil {
		return nil, f.corrupt(err)
	}
	if f.Redaction != facts.Redaction && !keepSecrets {
		out = facts.Clean(out, false)
	}
	out.ReadAt = f.ReadAt
	return out, nil
}

// preparedFacts is the facts row to store. It is made before the transaction, because it takes time and a transaction
// delays other writers.
type preparedFacts struct {
	before *factsRow // the stored row it was made from; nil: there was none
	row    *factsRow
	change *factsChangeRow // nil: no change for the history
	err    error
}

// prepareFacts makes the rows of the facts that changed.
func (r *Registry) prepareFacts(list []observed) {
	for i := range list {
		o := &list[i]
		if !o.known || o.Facts == nil || !o.transition.Changed || o.transition.State.FactsHash == o.state.FactsHash {
			continue
		}
		var before *factsRow
		err := r.store.View(context.Background(), func(tx storage.ReadTx) (err error) {
			before, err = factsTable.Find(tx, storage.StringKey(o.ID))
			return err
		})
		if err == nil {
			o.prepared = r.mergeFacts(before, o)
		}
	}
}

// mergeFacts merges the facts that were read into the stored ones. It replaces stored facts that are corrupt.
func (r *Registry) mergeFacts(stored *factsRow, o *observed) *preparedFacts {
	p := &preparedFacts{before: stored}
	before, changes, keepSecrets := &lifecycle.Facts{}, uint64(0), r.options.KeepSecrets
	if stored != nil {
		changes = stored.Changes
		if opened, err := stored.show(keepSecrets); err == nil {
			before = opened
		}
	}
	merged, data := facts.Merge(before, facts.Clean(o.Facts, keepSecrets))
	p.row = &factsRow{ID: o.ID, ReadAt: o.At, Data: data, Changes: changes, Members: true, Checksum: max(1, xxhash.Sum64(data))}
	if !keepSecrets {
		p.row.Redaction = facts.Redaction
	}
	if p.change, p.err = changeOfFacts(o.ID, changes+1, o.At, before, merged, keepSecrets); p.change != nil {
		p.row.Changes++
	}
	return p
}

func (r *Registry) storeFacts(tx storage.WriteTx, o *observed) error {
	stored, err := factsTable.Find(tx, storage.StringKey(o.ID))
	if err != nil && !errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	if o.prepared == nil || !stored.same(o.prepared.before) {
		o.prepared = r.mergeFacts(stored, o)
	}
	if err := o.prepared.err; err != nil {
		return err
	}
	if o.prepared.change != nil {
		if err := r.recordFactsChange(tx, o.prepared.change); err != nil {
			return err
		}
	}
	return factsTable.Put(tx, o.prepared.row)
}

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
