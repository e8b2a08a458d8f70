package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
)

func rolloutPath(id string) string { return "/1.0/provisioning/rollouts/" + id }

// rolloutPost selects the servers of a plan, or of a rollout, and says how to go on with them.
type rolloutPost struct {
	Selector rolling.Selector `json:"selector"`
	Policy   rolling.Policy   `json:"policy"`
}

// shownRollout is the document of a rollout.
type shownRollout struct {
	UUID         string             `json:"uuid"`
	Selector     rolling.Selector   `json:"selector"`
	Policy       rolling.Policy     `json:"policy"`
	Status       rolling.Status     `json:"status"`
	StatusReason string             `json:"status_reason"`
	CancelMode   rolling.CancelMode `json:"cancel_mode,omitempty"`
	RequestedBy  string             `json:"requested_by"`
	Waves        []shownWave        `json:"waves"`
	Units        int                `json:"units"`
	UnitsRunning int                `json:"units_running"`
	UnitsFailed  int                `json:"units_failed"`
	Servers      int                `json:"servers"`
	Steps        int                `json:"steps"`
	StepsDone    int                `json:"steps_done"`
	StartedAt    time.Time          `json:"started_at"`
	ExpectedEnd  time.Time          `json:"expected_end"`
	EndedAt      time.Time          `json:"ended_at"`
	LastUpdated  time.Time          `json:"last_updated"`
}

type shownWave struct {
	Name      string    `json:"name"`
	Units     int       `json:"units"`
	Ended     int       `json:"units_ended"`
	Failed    int       `json:"units_failed"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"`
}

func showRollout(r *rollout.Rollout) shownRollout {
	s := &r.State
	out := shownRollout{UUID: r.ID, Selector: r.Selector, Policy: s.Policy, Status: s.Status, StatusReason: cmp.Or(s.Reason, s.Waits), CancelMode: s.Cancel, RequestedBy: r.RequestedBy,
		Waves: []shownWave{}, Units: s.Units, UnitsRunning: s.Running, UnitsFailed: s.Failed, Servers: r.Servers, Steps: s.Steps, StepsDone: s.StepsDone,
		StartedAt: s.StartedAt, ExpectedEnd: r.ExpectedEnd, EndedAt: s.EndedAt, LastUpdated: r.LastUpdated}
	for _, w := range s.Waves {
		out.Waves = append(out.Waves, shownWave{w.Name, w.To - w.From, w.Ended, w.Failures, w.StartedAt, w.EndedAt})
	}
	return out
}

func (h *Handler) rollouts() resource[*rollout.Rollout] {
	return resource[*rollout.Rollout]{h: h, path: func(r *rollout.Rollout) string { return rolloutPath(r.ID) }, show: always(showRollout)}
}

// shownUnit is the document of a cluster, or of a server in none, in a rollout.
type shownUnit struct {
	Index     int                `json:"index"`
	Name      string             `json:"name"`
	Cluster   bool               `json:"cluster"`
	Wave      int                `json:"wave"`
	Status    rolling.UnitStatus `json:"status"`
	Waiting   string             `json:"waiting"`
	Failure   *shownFailure      `json:"failure"`
	StartedAt time.Time          `json:"started_at"`
	EndedAt   time.Time          `json:"ended_at"`
	Servers   []shownMember      `json:"servers"`
}

type shownFailure struct {
	At       time.Time        `json:"at"`
	Server   string           `json:"server"`
	Action   lifecycle.Action `json:"action"`
	Attempts int              `json:"attempts"`
	Reason   string           `json:"reason"`
	Advice   string           `json:"advice"`
}

type shownMember struct {
	Server          string            `json:"server"`
	State           string            `json:"state"`
	Left            string            `json:"left,omitempty"`
	Targets         map[string]string `json:"targets"`
	EvacuatedBefore bool              `json:"evacuated_before"`
	Evacuated       bool              `json:"evacuated"`
	Step            *shownStep        `json:"step"`
	Done            []shownStep       `json:"done"`
}

type shownStep struct {
	Action    lifecycle.Action `json:"action"`
	Why       string           `json:"why"`
	Attempt   int              `json:"attempt"`
	StartedAt time.Time        `json:"started_at"`
	Deadline  *time.Time       `json:"deadline,omitempty"`
	EndedAt   *time.Time       `json:"ended_at,omitempty"`
	Failed    string           `json:"failed,omitempty"`
	Note      string           `json:"note,omitempty"`
}

func showUnit(u *rollout.Unit) shownUnit {
	out := shownUnit{Index: u.Index, Name: u.Name, Cluster: u.Cluster, Wave: u.Wave, Status: u.Status, Waiting: u.Waiting, StartedAt: u.StartedAt, EndedAt: u.EndedAt, Servers: []shownMember{}}
	if f := u.Failure; f != nil {
		out.Failure = &shownFailure{f.At, f.Server, f.Action, f.Attempts, f.Reason, f.Advice}
	}
	for i := range u.Members {
		m := &u.Members[i]
		shown := shownMember{Server: m.Server, State: m.State(), Left: m.Left, Targets: m.Targets, EvacuatedBefore: m.EvacuatedBefore, Evacuated: m.Evacuated, Done: []shownStep{}}
		if s := m.Step; s != nil {
			shown.Step = &shownStep{Action: s.Action, Why: s.Why, Attempt: s.Attempt, StartedAt: s.StartedAt, Deadline: &s.Deadline}
		}
		for k := range m.Done {
			d := &m.Done[k]
			shown.Done = append(shown.Done, shownStep{Action: d.Action, Why: d.Why, Attempt: d.Attempt, StartedAt: d.StartedAt, EndedAt: &d.EndedAt, Failed: d.Failed, Note: d.Note})
		}
		out.Servers = append(out.Servers, shown)
	}
	return out
}

// showPlan answers with the plan of a rollout.
func (h *Handler) showPlan(w http.ResponseWriter, r *http.Request, selector rolling.Selector, policy rolling.Policy) {
	plan, err := h.options.Rollouts.Planner().Plan(r.Context(), selector, policy)
	h.answer(w, r, plan, err)
}

// postRollouts shows a plan. With dry-run=0 it starts the rollout.
func (h *Handler) postRollouts(w http.ResponseWriter, r *http.Request) {
	dry, err := queryOf(r).flagOr("dry-run", true)
	var body rolloutPost
	if err == nil {
		err = decode(r, &body)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if dry {
		h.showPlan(w, r, body.Selector, body.Policy)
		return
	}
	started, err := h.options.Rollouts.Start(r.Context(), body.Selector, body.Policy)
	h.rollouts().created(w, r, started, err)
}

// getRollouts lists rollouts, the newest first.
func (h *Handler) getRollouts(w http.ResponseWriter, r *http.Request) {
	h.rollouts().list(w, r, queryOf(r), nil, func(page opscenter.Page) ([]*rollout.Rollout, string, error) {
		found, err := h.options.Rollouts.List(r.Context(), page.Cursor, page.Limit)
		return found.Rollouts, found.Next, err
	})
}

// getRolloutUnits lists the clusters and servers of a rollout, each with its past steps, the step under way, and the reason for
// waiting.
func (h *Handler) getRolloutUnits(w http.ResponseWriter, r *http.Request) {
	_, err := h.options.Rollouts.Get(r.Context(), r.PathValue("uuid"))
	units := resource[*rollout.Unit]{h: h, show: always(showUnit)}
	units.list(w, r, queryOf(r), err, func(page opscenter.Page) ([]*rollout.Unit, string, error) {
		from := 0
		if page.Cursor != "" {
			if from, err = strconv.Atoi(page.Cursor); err != nil || from < 0 {
				return nil, "", fmt.Errorf("cursor %.20q: %w", page.Cursor, opscenter.ErrInvalidCursor)
			}
		}
		found, err := h.options.Rollouts.Units(r.Context(), r.PathValue("uuid"), from, page.Limit)
		return found, behind(found, page.Limit, func(u *rollout.Unit) string { return strconv.Itoa(u.Index + 1) }), err
	})
}

// getRolloutPlan shows the steps that are left, run forward from the present state.
func (h *Handler) getRolloutPlan(w http.ResponseWriter, r *http.Request) {
	ahead, err := h.options.Rollouts.Forecast(r.Context(), r.PathValue("uuid"))
	h.answer(w, r, ahead, err)
}

// changeRollout pauses, resumes or cancels a rollout.
func (h *Handler) changeRollout(w http.ResponseWriter, r *http.Request) {
	var err error
	id := r.PathValue("uuid")
	switch action := r.PathValue("action"); action {
	case ":pause":
		err = h.options.Rollouts.Pause(r.Context(), id, "")
	case ":resume":
		err = h.options.Rollouts.Resume(r.Context(), id)
	case ":cancel":
		err = h.options.Rollouts.Cancel(r.Context(), id, cancelMode(queryOf(r)))
	default:
		err = fmt.Errorf("action %.40q: %w", action, opscenter.ErrNotFound)
	}
	h.done(w, r, err)
}
