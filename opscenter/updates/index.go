package updates

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Format is the format of indexes and descriptions that this package reads; it rejects any other.
const Format = "1.0"

// ErrInvalid: an index, a description, a file or an archive is malformed or exceeds a limit.
var ErrInvalid = errors.New("is no valid update")

// wireUpdate is an update in the JSON form of its publisher. Unknown fields come from newer publishers and are ignored.
type wireUpdate struct {
	Format   string   `json:"format"`
	Channels []string `json:"channels"`
	// Channel is the field that publishers used before August 2025.
	Channel     string     `json:"channel,omitempty"`
	Files       []wireFile `json:"files"`
	Origin      string     `json:"origin"`
	PublishedAt time.Time  `json:"published_at"`
	Severity    Severity   `json:"severity"`
	Version     string     `json:"version"`
	URL         string     `json:"url,omitempty"`
}

type wireFile struct {
	Architecture string   `json:"architecture"`
	Component    string   `json:"component"`
	Filename     string   `json:"filename"`
	SHA256       string   `json:"sha256"`
	Size         int64    `json:"size"`
	Type         FileType `json:"type"`
}

// update converts and checks the publisher's description.
func (w *wireUpdate) update() (*Update, error) {
	if w.Format != Format {
		return nil, fmt.Errorf("update %.20q has format %.20q, only %s is supported: %w", w.Version, w.Format, Format, ErrInvalid)
	}
	out := &Update{Version: w.Version, PublishedAt: w.PublishedAt.UTC().Round(0), Severity: w.Severity, Origin: w.Origin, URL: w.URL, UpstreamChannels: w.Channels}
	if out.Severity == "" {
		out.Severity = SeverityNone
	}
	if len(out.UpstreamChannels) == 0 && w.Channel != "" {
		out.UpstreamChannels = []string{w.Channel}
	}
	for _, f := range w.Files {
		out.Files = append(out.Files, File{Filename: f.Filename, Size: f.Size, SHA256: strings.ToLower(f.SHA256), Component: f.Component, Type: f.Type, Architecture: f.Architecture})
	}
	if err := out.check(); err != nil {
		return nil, err
	}
	return out, nil
}

// ParseIndex reads an index, {"format", "updates": [...]}, and returns its updates, newest first. It leaves out unusable
// updates; the error then explains each and comes with the usable ones. An unreadable index returns nil and an error.
// Errors: ErrInvalid.
func ParseIndex(data []byte) ([]*Update, error) {
	var index struct {
		Format  string            `json:"format"`
		Updates []json.RawMessage `json:"updates"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("the index: %w: %v", ErrInvalid, err)
	}
	switch {
	case index.Format != Format:
		return nil, fmt.Errorf("the index has format %.20q, only %s is supported: %w", index.Format, Format, ErrInvalid)
	case len(index.Updates) > MaxUpdates:
		return nil, fmt.Errorf("the index has %d updates, at most %d are allowed: %w", len(index.Updates), MaxUpdates, ErrInvalid)
	}
	var out []*Update
	var failures []error
	seen := map[string]bool{}
	for _, raw := range index.Updates {
		u, err := parseUpdate(raw)
		switch {
		case err != nil:
			failures = append(failures, err)
		case seen[u.Origin+":"+u.Version]:
			failures = append(failures, fmt.Errorf("the index lists update %s of %q twice: %w", u.Version, u.Origin, ErrInvalid))
		default:
			seen[u.Origin+":"+u.Version] = true
			out = append(out, u)
		}
	}
	slices.SortFunc(out, newestFirst)
	return out, errors.Join(failures...)
}

// ParseUpdate reads the description of one update, update.json. Errors: ErrInvalid.
func ParseUpdate(data []byte) (*Update, error) { return parseUpdate(data) }

func parseUpdate(data []byte) (*Update, error) {
	var wire wireUpdate
	if err := json.Unmarshal(data, &wire); err != nil {
		return nil, fmt.Errorf("the description of an update: %w: %v", ErrInvalid, err)
	}
	return wire.update()
}
