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

// architectureOf returns that of the processor, as IncusOS and its update feed name it; empty: the hardware does not tell.
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

// factsRow keeps facts compressed.
type factsRow struct {
	ID     string // the server's
	ReadAt time.Time
	Data   []byte
	// Changes is how many changes there were so far: the number of the last one.
	Changes uint64
}

// ServerFacts returns the facts of a server. ErrNotFound if there is no such server; empty
// facts if none have been read.
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

// Facts returns the facts of a server that was found before, whatever its name is by now; empty facts if none have been
// read, or it was removed.
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
		return facts.Redacted(out), nil // they may be from a time when secrets were kept
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
