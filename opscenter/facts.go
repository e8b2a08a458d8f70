package opscenter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

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

// factsRow is the stored facts of a server, compressed.
type factsRow struct {
	ID     string // the server's
	ReadAt time.Time
	Data   []byte
	// Changes is how often the facts have changed: the number of the last change.
	Changes uint64
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
	if err != nil {
		return nil, err
	}
	if row == nil {
		return &lifecycle.Facts{}, nil
	}
	out, err := row.open()
	if err == nil && !s.registry.options.KeepSecrets {
		return facts.Redacted(out), nil // an earlier Registry may have kept secrets
	}
	return out, err
}

// same reports whether two rows are the same version of the same facts.
func (f *factsRow) same(other *factsRow) bool {
	if f == nil || other == nil {
		return f == other
	}
	return f.Changes == other.Changes && f.ReadAt.Equal(other.ReadAt) && bytes.Equal(f.Data, other.Data)
}

func (f *factsRow) open() (*lifecycle.Facts, error) {
	data, err := facts.Decompress(f.Data)
	if err != nil {
		return nil, fmt.Errorf("facts of server ID %s: %w: %v", f.ID, storage.ErrCorrupt, err)
	}
	out := &lifecycle.Facts{}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("facts of server ID %s: %w: %v", f.ID, storage.ErrCorrupt, err)
	}
	out.ReadAt = f.ReadAt
	return out, nil
}
