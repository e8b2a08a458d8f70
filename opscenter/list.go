package opscenter

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Page selects a page of a list. The zero value is the first page, of 100 rows.
type Page struct {
	// Limit is how many rows are returned at most. Default 100, at most MaxPageSize.
	Limit int
	// Cursor is the Next of the previous page. It stays valid while rows are added and removed.
	Cursor string
}

// within returns the range of the page.
func (p Page) within(prefix storage.Key) (storage.Range, error) {
	r := storage.Range{Prefix: prefix}
	if p.Cursor == "" {
		return r, nil
	}
	last, err := page.Decode(p.Cursor, MaxNameLength)
	if err != nil {
		return r, err
	}
	r.After = prefix.Str(last)
	return r, nil
}

// ServerFilter selects the servers that match all fields that are set. The zero value selects all.
type ServerFilter struct {
	// Scope leaves out servers that are not in it. nil: it leaves out none.
	Scope        *access.Scope
	Status       lifecycle.Status
	StatusDetail lifecycle.StatusDetail
	Type         lifecycle.ServerType
	Cluster      string
	Channel      string
	// Fingerprint of the certificate, in hexadecimal digits.
	Fingerprint   string
	NeedsUpdate   *bool
	NeedsReboot   *bool
	InMaintenance *bool
	// Expression is a further condition, in the language of package expression. It may use the fields that the REST API
	// shows of a server, by their names there: name, connection_url, public_connection_url, channel, description,
	// properties, fingerprint, system_uuid, machine_id, cluster, member_name, member_roles, server_type, server_status,
	// server_status_detail, server_status_reason, os_version, os_version_next, needs_update, needs_reboot,
	// in_maintenance, recommended_action, system_state_is_trusted, backup_image, version_data, last_updated and
	// last_seen.
	//
	// It may also use the names of Operations Center's filters: status, status_detail, type, certificate,
	// cluster_certificate, cluster_connection_url and last_status_updated. hardware_data and os_data cost a read of the
	// facts of each server.
	Expression string
}

// check refuses values that no server can have. Otherwise a typing error would give an empty list.
func (f ServerFilter) check() error {
	if f.Status != "" && !slices.Contains(lifecycle.Statuses, f.Status) {
		return fmt.Errorf("status %q, known are %q: %w", truncate.Name(string(f.Status)), lifecycle.Statuses, ErrInvalidFilter)
	}
	if f.StatusDetail != "" && !slices.Contains(lifecycle.StatusDetails, f.StatusDetail) {
		return fmt.Errorf("status detail %q, known are %q: %w", truncate.Name(string(f.StatusDetail)), lifecycle.StatusDetails, ErrInvalidFilter)
	}
	if f.Type != "" && !slices.Contains(lifecycle.ServerTypes, f.Type) {
		return fmt.Errorf("type %q, known are %q: %w", truncate.Name(string(f.Type)), lifecycle.ServerTypes, ErrInvalidFilter)
	}
	return nil
}

// matches applies the filter to rows before they are copied.
func (f ServerFilter) matches(server *Server, state *lifecycle.ServerState, channel *Channel) bool {
	switch {
	case f.Scope != nil && !f.Scope.Contains(server.Channel, server.Cluster, server.Properties),
		f.Cluster != "" && server.Cluster != f.Cluster,
		f.Channel != "" && server.Channel != f.Channel,
		f.Fingerprint != "" && !strings.EqualFold(server.Fingerprint, f.Fingerprint),
		f.Status != "" && state.Status != f.Status,
		f.StatusDetail != "" && state.StatusDetail != f.StatusDetail,
		f.Type != "" && state.Type != f.Type,
		f.NeedsReboot != nil && state.Versions.NeedsReboot() != *f.NeedsReboot,
		f.InMaintenance != nil && (state.Maintenance != lifecycle.NotInMaintenance) != *f.InMaintenance,
		f.NeedsUpdate != nil && (len(state.Versions.Outdated(channel.Offers(state.Architecture))) > 0) != *f.NeedsUpdate:
		return false
	}
	return true
}

// Servers yields the servers that match, by name, from one snapshot. The store keeps the snapshot until the loop ends:
// the loop should be short.
func (r *Registry) Servers(ctx context.Context, filter ServerFilter) iter.Seq2[*ServerInfo, error] {
	return func(yield func(*ServerInfo, error) bool) {
		err := r.store.View(ctx, func(tx storage.ReadTx) error {
			for info, err := range r.scan(ctx, tx, filter, Page{}) {
				if err != nil {
					return err
				}
				if !yield(info, nil) {
					return nil
				}
			}
			return nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// ServerPage is a page of servers.
type ServerPage struct {
	Servers []*ServerInfo
	// Next is the cursor of the next page. Empty: this page is the last.
	Next string
}

// ListServers returns a page of the servers that match, by name. Errors: ErrInvalidFilter, ErrInvalidCursor.
func (r *Registry) ListServers(ctx context.Context, filter ServerFilter, from Page) (out ServerPage, err error) {
	limit := page.Size(from.Limit)
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		out = ServerPage{}
		for info, err := range r.scan(ctx, tx, filter, from) {
			if err != nil {
				return err
			}
			if len(out.Servers) == limit {
				out.Next = page.Encode(out.Servers[limit-1].Name)
				break
			}
			out.Servers = append(out.Servers, info)
		}
		return nil
	})
	return out, err
}

// ServerNames returns a page of the names of the servers that match, and the cursor of the next page. It reads
// only an index if the filter is empty, or has Status, Cluster or Channel alone. ctx bounds filter.Expression. Errors: those of Registry.ListServers.
func (s *Snapshot) ServerNames(ctx context.Context, filter ServerFilter, from Page) (names []string, next string, err error) {
	limit := page.Size(from.Limit)
	for name, err := range s.names(ctx, filter, from) {
		if err != nil {
			return nil, "", err
		}
		if len(names) == limit {
			return names, page.Encode(names[limit-1]), nil
		}
		names = append(names, name)
	}
	return names, "", nil
}

// names yields the names of a page's servers, and of those behind it.
func (s *Snapshot) names(ctx context.Context, filter ServerFilter, from Page) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		keys, err := keysOf(s, filter, from)
		if err != nil {
			yield("", err)
			return
		}
		if keys == nil {
			for info, err := range s.registry.scan(ctx, s, filter, from) {
				var name string
				if err == nil {
					name = info.Name
				}
				if !yield(name, err) {
					return
				}
			}
			return
		}
		for key, err := range keys {
			name, _ := key.FirstString()
			if !yield(name, err) {
				return
			}
		}
	}
}

// keysOf returns the keys of the servers that match, where an index has just those. nil: the servers must be read.
func keysOf(tx storage.ReadTx, filter ServerFilter, from Page) (iter.Seq2[storage.Key, error], error) {
	if err := filter.check(); err != nil {
		return nil, err
	}
	keys, prefix := servers.Keys, storage.Key(nil)
	switch filter {
	case ServerFilter{}:
	case ServerFilter{Status: filter.Status}:
		keys, prefix = statesByStatus.Keys, storage.StringKey(string(filter.Status))
	case ServerFilter{Cluster: filter.Cluster}:
		keys, prefix = serversByCluster.Keys, storage.StringKey(filter.Cluster)
	case ServerFilter{Channel: filter.Channel}:
		keys, prefix = serversByChannel.Keys, storage.StringKey(filter.Channel)
	default:
		return nil, nil
	}
	within, err := from.within(prefix)
	if err != nil {
		return nil, err
	}
	return keys(tx, within), nil
}

// scan yields the servers of a page that match. It uses the index with the fewest candidates. Each index has its entries
// of one key by name.
func (r *Registry) scan(ctx context.Context, tx storage.ReadTx, filter ServerFilter, from Page) iter.Seq2[*ServerInfo, error] {
	return func(yield func(*ServerInfo, error) bool) {
		if err := filter.check(); err != nil {
			yield(nil, err)
			return
		}
		expression, err := compileFilter(filter.Expression, serverSchema)
		if err != nil {
			yield(nil, err)
			return
		}
		var matcher *serverMatcher
		if expression != nil {
			matcher = r.newServerMatcher(expression)
		}
		var pairs iter.Seq2[pair, error]
		switch {
		case filter.Fingerprint != "":
			pairs = pairsByIndex(tx, byFingerprint, strings.ToLower(filter.Fingerprint), from)
		case filter.Cluster != "":
			pairs = pairsByIndex(tx, serversByCluster, filter.Cluster, from)
		case filter.Status != "":
			pairs = pairsByStatus(tx, filter.Status, from)
		case filter.Channel != "":
			pairs = pairsByIndex(tx, serversByChannel, filter.Channel, from)
		default:
			pairs = allPairs(tx, from)
		}
		followed := map[string]*Channel{}
		for p, err := range pairs {
			if err != nil {
				yield(nil, err)
				return
			}
			channel, ok := followed[p.server.Channel]
			if !ok {
				if channel, err = available(tx, p.server.Channel); err != nil {
					yield(nil, err)
					return
				}
				followed[p.server.Channel] = channel
			}
			if !filter.matches(p.server, p.state, channel) {
				continue
			}
			info := r.info(p.server, p.state, channel)
			if matcher != nil {
				if err := ctx.Err(); err != nil {
					yield(nil, err)
					return
				}
				ok, err := matcher.matches(tx, info)
				if err != nil {
					yield(nil, err)
					return
				}
				if !ok {
					continue
				}
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := filterError(expression, from); err != nil {
			yield(nil, err)
		}
	}
}

// pair is a server with its state.
type pair struct {
	server *Server
	state  *lifecycle.ServerState
}

// allPairs reads both tables side by side, because they have the same keys.
func allPairs(tx storage.ReadTx, from Page) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		within, err := from.within(nil)
		if err != nil {
			yield(pair{}, err)
			return
		}
		nextState, stop := iter.Pull2(states.Scan(tx, within))
		defer stop()
		for server, err := range servers.Scan(tx, within) {
			if err != nil {
				yield(pair{}, err)
				return
			}
			state, err, ok := nextState()
			if err != nil {
				yield(pair{}, err)
				return
			}
			if !ok || state.Name != server.Name {
				yield(pair{}, fmt.Errorf("server %q has no state: %w", server.Name, storage.ErrCorrupt))
				return
			}
			if !yield(pair{server, state}, nil) {
				return
			}
		}
	}
}

func pairsByIndex(tx storage.ReadTx, index *storage.Index[Server], value string, from Page) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		within, err := from.within(storage.StringKey(value))
		if err != nil {
			yield(pair{}, err)
			return
		}
		for server, err := range index.Scan(tx, within) {
			var state *lifecycle.ServerState
			if err == nil {
				state, err = states.Get(tx, nameKey(server.Name))
			}
			if !yield(pair{server, state}, err) || err != nil {
				return
			}
		}
	}
}

func pairsByStatus(tx storage.ReadTx, status lifecycle.Status, from Page) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		within, err := from.within(storage.StringKey(string(status)))
		if err != nil {
			yield(pair{}, err)
			return
		}
		for state, err := range statesByStatus.Scan(tx, within) {
			var server *Server
			if err == nil {
				server, err = servers.Get(tx, nameKey(state.Name))
			}
			if !yield(pair{server, state}, err) || err != nil {
				return
			}
		}
	}
}
