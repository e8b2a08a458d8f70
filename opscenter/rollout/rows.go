package rollout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// A unit has a row, and each of its members has one. A step of a server so writes the row of that server, and not those of
// all servers of a cluster.
//
// Earlier releases kept the members in the row of the unit, as an array. Such a row is read, and gets the present form when
// the unit next changes. The present form has a number there. So an earlier release refuses the row as corrupt: it must not
// take the unit for one without members, which would count as done.

// unitRow is the stored form of a unit.
type unitRow struct {
	Unit
	// Members hides those of the Unit, which the row does not contain.
	Members storedMembers
}

// storedMembers is the number of members that have rows of their own, or the members themselves.
type storedMembers struct {
	apart  int
	inside []rolling.Member
}

// MarshalJSON implements json.Marshaler.
func (m storedMembers) MarshalJSON() ([]byte, error) {
	if m.inside != nil {
		return json.Marshal(m.inside)
	}
	return json.Marshal(m.apart)
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *storedMembers) UnmarshalJSON(data []byte) error {
	*m = storedMembers{}
	if bytes.HasPrefix(data, []byte("[")) {
		return json.Unmarshal(data, &m.inside)
	}
	return json.Unmarshal(data, &m.apart)
}

// memberRow is the stored form of a member of a unit.
type memberRow struct {
	// Rollout and Unit are the key of the unit. Position is that of the member in it, from 0.
	Rollout  string
	Unit     int
	Position int
	rolling.Member
}

var (
	units   = storage.NewTable("rollout_units", func(u *unitRow) storage.Key { return unitKey(u.Rollout, u.Index) }).Hot()
	members = storage.NewTable("rollout_members", func(m *memberRow) storage.Key {
		return unitKey(m.Rollout, m.Unit).Uint(uint64(m.Position))
	}).Compact().Hot()
)

func unitKey(rollout string, index int) storage.Key {
	return storage.StringKey(rollout).Uint(uint64(index))
}

// storedUnit is a unit as it is stored. It shares maps and slices with the rows: read it, and change a copy.
type storedUnit struct {
	Unit
	apart bool // its members have rows of their own
}

// copied returns a copy of the unit that may be changed.
func (s *storedUnit) copied() *Unit {
	return &Unit{Rollout: s.Rollout, Index: s.Index, Unit: *s.Unit.Unit.Clone()}
}

// join reads the members of a unit.
func join(tx storage.ReadTx, row *unitRow) (*storedUnit, error) {
	out := &storedUnit{Unit: row.Unit, apart: row.Members.inside == nil}
	if !out.apart {
		out.Members = row.Members.inside
		return out, nil
	}
	out.Members = make([]rolling.Member, row.Members.apart)
	for i := range out.Members {
		member, err := members.Find(tx, unitKey(row.Rollout, row.Index).Uint(uint64(i)))
		if err != nil {
			return nil, err
		}
		if member == nil {
			return nil, fmt.Errorf("unit %q of rollout %s has no row of member %d: %w", row.Name, row.Rollout, i, storage.ErrCorrupt)
		}
		out.Members[i] = member.Member
	}
	return out, nil
}

// findUnit returns a unit; nil: there is none.
func findUnit(tx storage.ReadTx, rollout string, index int) (*storedUnit, error) {
	row, err := units.Find(tx, unitKey(rollout, index))
	if err != nil || row == nil {
		return nil, err
	}
	return join(tx, row)
}

// getUnit returns a unit, or opscenter.ErrNotFound.
func getUnit(tx storage.ReadTx, rollout string, index int) (*storedUnit, error) {
	u, err := findUnit(tx, rollout, index)
	if err == nil && u == nil {
		err = fmt.Errorf("unit %d of rollout %.80q: %w", index, rollout, opscenter.ErrNotFound)
	}
	return u, err
}

// putUnit stores a unit: its own row, and the rows of its members, as far as they differ from those of stored. nil: the unit
// is new. Members that the limits of the store allow no rows of their own stay in the row of the unit.
func (s txLimits) putUnit(tx storage.WriteTx, stored *storedUnit, next *Unit) error {
	row := &unitRow{Unit: *next}
	row.Unit.Members = nil
	if len(next.Members) > s.apart {
		row.Members.inside = next.Members
		return units.Put(tx, row)
	}
	fresh := stored == nil || !stored.apart
	for i := range next.Members {
		if !fresh && next.Members[i].Equal(&stored.Members[i]) {
			continue
		}
		if err := members.Put(tx, &memberRow{next.Rollout, next.Index, i, next.Members[i]}); err != nil {
			return err
		}
	}
	if !fresh && sameUnit(&stored.Unit, &row.Unit) {
		return nil
	}
	row.Members.apart = len(next.Members)
	return units.Put(tx, row)
}

// sameUnit reports whether two units are the same, apart from their members.
func sameUnit(a, b *Unit) bool {
	one, other := *a, *b
	one.Members, other.Members = nil, nil
	return reflect.DeepEqual(&one, &other)
}

// changedMembers returns how many members of a unit differ from the stored ones.
func changedMembers(stored *storedUnit, next *Unit) (n int) {
	for i := range next.Members {
		if !stored.apart || !next.Members[i].Equal(&stored.Members[i]) {
			n++
		}
	}
	return n
}
