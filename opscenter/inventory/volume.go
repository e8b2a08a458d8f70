package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// listsSnapshotsApart reports whether the daemon lists the snapshots of volumes apart. Releases of Incus with
// storage_volume_full do. Others list them among the volumes.
func (w *worker) listsSnapshotsApart() bool {
	return slices.Contains(w.daemon.Extensions, volumesApart)
}

const volumesApart = "storage_volume_full"

// isSnapshot reports whether an object is a snapshot of a volume.
func (r *row) isSnapshot() bool { return r.Kind == KindStorageVolume && strings.Contains(r.Name, "/") }

// volumes lists the volumes of a pool, and then the snapshots of each custom volume. Snapshots of instances are part of
// their instances.
func (l *lister) volumes(ctx context.Context, have known, of ref, path string) error {
	var custom []*row
	among := false
	err := l.list(ctx, have, of, path, func(r *row) {
		switch {
		case r.isSnapshot():
			among = true // in spite of its extensions
		case r.Type == "custom":
			custom = append(custom, &row{Kind: r.Kind, Project: r.Project, Parent: r.Parent, Type: r.Type, Name: r.Name, Location: r.Location})
		}
	})
	if err != nil || among || l.shallow {
		return err
	}
	for _, volume := range custom {
		if err := l.snapshots(ctx, have, volume, ""); err != nil {
			return err
		}
	}
	return nil
}

// volume reads a custom volume with its snapshots, or one snapshot.
func (l *lister) volume(ctx context.Context, have known, r ref) error {
	whole, only := r, ""
	if name, _, snapshot := strings.Cut(r.name, "/"); snapshot {
		whole.name, only = name, r.name
	} else if err := l.w.addSnapshots(ctx, have, r); err != nil {
		return err
	}
	var all []*row
	err := l.readList(ctx, searchPath(whole), func(entry json.RawMessage) error {
		found := l.row(whole, entry)
		if found == nil || found.Name != whole.name || found.Type != whole.typ {
			return nil
		}
		all = append(all, &row{Kind: found.Kind, Project: found.Project, Parent: found.Parent, Type: found.Type, Name: found.Name, Location: found.Location})
		if only != "" {
			return nil
		}
		return l.found(ctx, have, whole, entry, nil)
	})
	for _, found := range all {
		if err == nil && found.Project != r.project { // the project uses the volumes of the default project
			of := found.ref()
			if only != "" {
				of.name = only
				err = l.w.add(ctx, have, of)
			} else {
				err = l.w.addSnapshots(ctx, have, of)
			}
		}
		if err == nil {
			err = l.snapshots(ctx, have, found, only)
		}
	}
	return err
}

// addSnapshots adds the stored snapshots of a volume to have.
func (w *worker) addSnapshots(ctx context.Context, have known, r ref) error {
	more, err := w.m.known(ctx, w.id, r.snapshots(w.id), func(*row) bool { return true })
	maps.Copy(have, more)
	return err
}

// away reports whether a member is down. Incus would wait for it at each request for the snapshots of its volumes.
func (l *lister) away(ctx context.Context, member string) (bool, error) {
	if away, known := l.unreachable[member]; known || member == "" || !l.w.daemon.Clustered {
		return away, nil
	}
	var object struct {
		Status string `json:"status"`
	}
	err := l.w.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		rows, err := rowsOf(s, l.w.id, ref{kind: KindClusterMember, name: member})
		if err == nil && len(rows) > 0 {
			var member *row
			if member, err = rows[0].unpack(); err == nil {
				_ = json.Unmarshal(member.Object, &object) // an unreadable status counts as not offline
			}
		}
		return err
	})
	if l.unreachable == nil {
		l.unreachable = map[string]bool{}
	}
	l.unreachable[member] = object.Status == "Offline"
	return l.unreachable[member], err
}

// keepSnapshots removes the snapshots of a volume from have, so that they stay stored.
func (have known) keepSnapshots(unit string, volume *row) {
	prefix, end := string(volume.ref().snapshots(unit)), string(storage.StringKey(volume.Location))
	for key := range have {
		if strings.HasPrefix(key, prefix) && strings.HasSuffix(key, end) {
			delete(have, key)
		}
	}
}

// snapshots is the prefix of the rows of a volume's snapshots.
func (r ref) snapshots(unit string) storage.Key {
	return storage.StringsKey(unit, string(r.kind), r.project, r.parent, r.typ).StrPrefix(r.name + "/")
}

// snapshots lists the snapshots of a volume: all, or the one of that name. If the daemon can't list them, as when the
// member of the volume is down, the stored snapshots stay.
func (l *lister) snapshots(ctx context.Context, have known, volume *row, only string) error {
	away, err := l.away(ctx, volume.Location)
	if err != nil {
		return err
	}
	if away {
		have.keepSnapshots(l.w.id, volume)
		return nil
	}
	query := url.Values{"recursion": {"1"}, "project": {volume.Project}}
	if volume.Location != "" {
		query.Set("target", volume.Location)
	}
	path := "/1.0/storage-pools/" + url.PathEscape(volume.Parent) + "/volumes/" + url.PathEscape(volume.Type) + "/" + url.PathEscape(volume.Name)
	of := ref{kind: KindStorageVolume, parent: volume.Parent, project: volume.Project}
	err = l.readList(ctx, path+"/snapshots?"+query.Encode(), func(entry json.RawMessage) error {
		found := l.row(of, entry)
		if found == nil {
			return nil
		}
		if !strings.Contains(found.Name, "/") {
			found.Name = volume.Name + "/" + found.Name
		}
		found.Type, found.Location = volume.Type, volume.Location
		if only != "" && found.Name != only {
			return nil
		}
		return l.batch.compare(ctx, have, found)
	})
	if status(err) == http.StatusNotFound { // the volume, or one of its snapshots, was removed meanwhile
		query.Del("recursion")
		if _, gone := l.w.m.incus.ReadObject(ctx, l.w.target, path+"?"+query.Encode()); status(gone) == http.StatusNotFound {
			return nil
		}
	}
	if err == nil || status(err) == 0 {
		return err
	}
	have.keepSnapshots(l.w.id, volume)
	if l.partial++; l.unread == nil {
		l.unread = fmt.Errorf("snapshots of %s: %w", truncate.Text(volume.Name, maxText), err)
	}
	if volume.Location != "" && l.w.daemon.Clustered && status(err) >= http.StatusInternalServerError {
		l.unreachable[volume.Location] = true // a member that does not answer is asked once
	}
	return nil
}
