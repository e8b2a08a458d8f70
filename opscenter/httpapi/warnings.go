package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// warningStatus is the acknowledgement of a warning, as Operations Center names it.
type warningStatus string

const (
	warningNew          warningStatus = "new"
	warningAcknowledged warningStatus = "acknowledged"
)

// warningPut holds the field of a warning that an operator edits.
type warningPut struct {
	Status warningStatus `json:"status"`
}

// warningScope names the subject of a warning.
type warningScope struct {
	Scope      string `json:"scope"`
	EntityType string `json:"entity_type"`
	Entity     string `json:"entity"`
}

// warningJSON is a warning as the API shows it.
type warningJSON struct {
	warningPut
	UUID            string       `json:"uuid"`
	Scope           warningScope `json:"scope"`
	Type            warning.Kind `json:"type"`
	FirstOccurrence time.Time    `json:"first_occurrence"`
	LastOccurrence  time.Time    `json:"last_occurrence"`
	LastUpdated     time.Time    `json:"last_updated"`
	Messages        []string     `json:"messages"`
	Count           int          `json:"count"`
}

func showWarning(w *warning.Warning) warningJSON {
	out := warningJSON{UUID: w.UUID, Type: w.Kind, Scope: warningScope{Scope: "poll", EntityType: "fleet"}, warningPut: warningPut{warningNew},
		FirstOccurrence: w.FirstSeen, LastOccurrence: w.LastSeen, LastUpdated: slices.MaxFunc([]time.Time{w.LastUpdated, w.LastSeen}, time.Time.Compare), Messages: []string{w.Message}, Count: w.Count}
	if w.ServerID != "" {
		out.Scope.EntityType, out.Scope.Entity = "server", w.Server
	}
	if w.Controller != "" {
		out.Scope.EntityType, out.Scope.Entity = "controller", w.Controller
	}
	if w.Acknowledged {
		out.Status = warningAcknowledged
	}
	return out
}

// warnings have ETags that cover the acknowledgement, which a PUT replaces, and the warning's identity.
func (h *Handler) warnings() resource[*warning.Warning] {
	return resource[*warning.Warning]{h: h, show: always(showWarning), covers: func(w *warning.Warning) any { return []any{w.UUID, w.Acknowledged} }}
}

func (s warningStatus) acknowledged() (bool, error) {
	switch s {
	case warningNew:
		return false, nil
	case warningAcknowledged:
		return true, nil
	}
	return false, fmt.Errorf("%w: field status: %.40q is neither %q nor %q", errBody, string(s), warningNew, warningAcknowledged)
}

// containsWarning reports whether the server of a warning is in a scope. A warning about the fleet, or about a controller, is in none.
func (h *Handler) containsWarning(ctx context.Context, scope *access.Scope, w *warning.Warning) (bool, error) {
	if w.ServerID == "" {
		return false, nil
	}
	return h.containsIDs(ctx, scope, []string{w.ServerID})
}

// getWarnings lists warnings, the oldest first, whole with and without recursion.
func (h *Handler) getWarnings(w http.ResponseWriter, r *http.Request) {
	query, err := queryOf(r), error(nil)
	filter := opscenter.WarningFilter{Kind: warning.Kind(query.valueOf("type")), Server: query.valueOf("server")}
	if status := query.valueOf("status"); status != "" {
		var wanted bool
		wanted, err = warningStatus(status).acknowledged()
		filter.Acknowledged = &wanted
	}
	scope := scopeOf(r.Context())
	h.warnings().list(w, r, query, err, func(page opscenter.Page) (out []*warning.Warning, next string, err error) {
		found, err := h.registry.Warnings().List(r.Context(), filter, page)
		if err != nil || scope == nil {
			return found.Warnings, found.Next, err
		}
		for _, one := range found.Warnings {
			inside, err := h.containsWarning(r.Context(), scope, one)
			if err != nil {
				return nil, "", err
			}
			if inside {
				out = append(out, one)
			}
		}
		return out, found.Next, nil
	})
}

// warningEdit is the acknowledgement of a warning.
type warningEdit struct {
	warningPut
	UUID string `json:"uuid"`
}

func (h *Handler) putWarning(w http.ResponseWriter, r *http.Request) {
	var body warningEdit
	var acknowledged bool
	err := decode(r, &body, shownBy[warningJSON]())
	if err == nil {
		err = sameUUID(r, body.UUID)
	}
	if err == nil {
		acknowledged, err = body.Status.acknowledged()
	}
	if err == nil {
		err = h.registry.Warnings().Acknowledge(r.Context(), r.PathValue("uuid"), acknowledged, func(known *warning.Warning) error {
			return h.warnings().matches(r, known)
		})
	}
	h.done(w, r, err)
}
