package webui

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/client"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// action is a form that changes something. It sends one request to the API, which decides on the right to it and records it.
type action struct {
	path string // as of http.ServeMux, without the method
	verb string // as on the button
	// ask tells the consequence; the page that asks for a confirmation shows it. Empty: the form is carried out at once.
	ask string
	// call returns the request of a form. An error that wraps errForm names the fault of the form.
	call func(*visit) (call, error)
	// target names the object of the form for people. nil: it is the {name} of the path.
	target func(*visit) string
	// details returns further consequences, for the confirmation. nil: there are none.
	details func(*visit) ([]string, error)
	// back is the path of the page to go to. nil: the page of the Location of the answer.
	back func(*visit) string
	// notice confirms that it was done.
	notice string
	// long: the request is answered when the change is final. The page shows the change meanwhile.
	long bool
	// shows is the template of an answer that must be read; empty: none.
	shows string
}

// call is a request to the API.
type call struct {
	method, path string
	query        url.Values
	body         any
	// dry: the API can show the consequence before, with dry-run=1. plan and network say of which form it is.
	plan, network bool
	// started: the request starts with dry-run=0.
	started bool
}

// errForm means that a form is not filled in as it should be.
var errForm = errors.New("the form")

// longPatience is how long a page waits for a long request before it shows the change that is under way.
const longPatience = 2 * time.Second

func backTo(page string) func(*visit) string { return func(*visit) string { return page } }
func backToServer(v *visit) string           { return "/servers/" + url.PathEscape(v.r.PathValue("name")) }
func backToCluster(v *visit) string          { return "/clusters/" + url.PathEscape(v.r.PathValue("name")) }
func backToRollout(v *visit) string          { return "/rollouts/" + url.PathEscape(v.r.PathValue("uuid")) }
func backToToken(v *visit) string            { return "/tokens/" + url.PathEscape(v.r.PathValue("uuid")) }

// operate is an action on a server or a cluster of which the API shows the plan.
func operate(kind, verb, do, ask string, body func(*visit) any) action {
	return action{path: "/" + kind + "/{name}/" + strings.ReplaceAll(do, ":", ""), verb: verb, ask: ask, notice: "It has begun. This page shows how it goes.",
		call: func(v *visit) (call, error) {
			prefix := "system/"
			if kind == "clusters" {
				prefix = ""
			}
			c := call{method: http.MethodPost, path: client.Path("provisioning/"+kind, v.r.PathValue("name"), prefix+do), query: url.Values{}, plan: true}
			if body != nil {
				c.body = body(v)
			}
			return c, nil
		}}
}

// post is the request of an action that sends no body.
func post(parts ...string) call { return call{method: http.MethodPost, path: client.Path(parts...)} }

// changeRollout is an action on a rollout.
func changeRollout(do, verb, ask, notice string, query url.Values) action {
	name := do
	if mode := query.Get("mode"); mode != "" {
		name += "-" + mode
	}
	return action{path: "/rollouts/{uuid}/" + name, verb: verb, ask: ask, notice: notice, back: backToRollout, call: func(v *visit) (call, error) {
		c := post("provisioning/rollouts", v.r.PathValue("uuid"), ":"+do)
		c.query = query
		return c, nil
	}}
}

// actions are all forms that change something. A test sends each.
var actions = []action{
	operate("servers", "Update", ":update", "The server fetches the versions of its channel, and reboots if the new system wants it.", nil),
	operate("servers", "Evacuate", ":evacuate", "The instances of the server move to other members of its cluster. In no cluster they stop.", nil),
	operate("servers", "Reboot", ":reboot", "The server reboots.", nil),
	operate("servers", "Restore", ":restore", "The instances of the server come back.", nil),
	operate("servers", "Power off", ":poweroff", "The server shuts down. It has to be switched on by hand, or by its management controller.", nil),
	operate("clusters", "Update", ":update", "The members are updated one after another.", func(v *visit) any { return map[string]bool{"reboot": v.r.PostFormValue("reboot") == "1"} }),
	operate("clusters", "Reboot", ":reboot", "The members are evacuated, rebooted and restored one after another.", nil),
	{path: "/servers/{name}/resync", verb: "Poll now", notice: "The server was polled.", back: backToServer, call: func(v *visit) (call, error) {
		return post("provisioning/servers", v.r.PathValue("name"), ":resync"), nil
	}},
	{path: "/servers/{name}/edit", verb: "Save", notice: "The server was changed.", back: backToServer, call: func(v *visit) (call, error) {
		properties, err := readProperties(v.r.PostFormValue("properties"))
		return call{method: http.MethodPut, path: client.Path("provisioning/servers", v.r.PathValue("name")),
			body: map[string]any{"description": v.r.PostFormValue("description"), "channel": v.r.PostFormValue("channel"), "properties": properties}}, err
	}},
	{path: "/servers/{name}/accept-certificate", verb: "Accept the certificate", ask: "The control plane accepts this certificate as the server's own from now on. Compare the fingerprint with the server's console first.",
		notice: "The certificate is accepted.", details: func(v *visit) ([]string, error) {
			return []string{"Fingerprint: " + v.r.PostFormValue("fingerprint")}, nil
		}, back: backToServer, call: func(v *visit) (call, error) {
			c := post("provisioning/servers", v.r.PathValue("name"), ":accept-certificate")
			c.body = map[string]string{"fingerprint": v.r.PostFormValue("fingerprint")}
			return c, nil
		}},
	{path: "/servers/{name}/remove", verb: "Remove", ask: "The control plane forgets the server and its history. The server itself is not changed.", notice: "The server was removed.", back: backTo("/servers"),
		call: func(v *visit) (call, error) {
			return call{method: http.MethodDelete, path: client.Path("provisioning/servers", v.r.PathValue("name"))}, nil
		}},
	{path: "/servers/{name}/network", verb: "Change the network", ask: "The server gets this configuration. If the control plane does not reach it in time, the server undoes the change.",
		notice: "The change is final.", details: func(v *visit) ([]string, error) {
			details := []string{"The server undoes the change unless it is confirmed within " + v.r.PostFormValue("confirmation-timeout") + "."}
			if v.r.PostFormValue("accept-risk") == "1" {
				details = append(details, "The risk of a release that can't undo a change is accepted.")
			}
			return details, nil
		}, long: true, back: backToServer, call: networkCall},
	{path: "/clusters/{name}/resync-inventory", verb: "Read the inventory", notice: "The inventory is being read.", back: backToCluster, call: func(v *visit) (call, error) {
		return post("provisioning/clusters", v.r.PathValue("name"), ":resync-inventory"), nil
	}},
	{path: "/rollouts/new", verb: "Start the rollout", ask: "The steps below are carried out if nothing changes before.", notice: "The rollout has begun.", call: rolloutCall},
	changeRollout("pause", "Pause", "", "The rollout is paused. Steps under way end.", nil),
	changeRollout("resume", "Resume", "", "The rollout goes on.", nil),
	changeRollout("cancel", "Cancel: finish what has begun", "Clusters and servers that have begun are completed. No further one begins.", "The rollout ends when what has begun is complete.", url.Values{"mode": {"finish"}}),
	changeRollout("cancel", "Cancel: stop", "The steps under way end. Evacuated servers stay evacuated, and servers stay as they are then.", "The rollout stops.", url.Values{"mode": {"stop"}}),
	changeRollout("cancel", "Cancel: stop and restore", "The steps under way end. Servers that the rollout evacuated are restored.", "The rollout stops, and restores servers.", url.Values{"mode": {"restore"}}),
	{path: "/warnings/{uuid}/acknowledge", verb: "Acknowledge", notice: "The warning is acknowledged.", back: backTo("/warnings"), call: func(v *visit) (call, error) {
		return call{method: http.MethodPut, path: client.Path("warnings", v.r.PathValue("uuid")), body: map[string]string{"status": "acknowledged"}}, nil
	}},
	{path: "/updates/refresh", verb: "Ask the source", notice: "The source is being asked for releases.", back: backTo("/updates"), call: func(*visit) (call, error) {
		return post("provisioning/updates/:refresh"), nil
	}},
	{path: "/updates/{uuid}/channels", verb: "Promote", ask: "The servers that follow these channels are offered the release. An update of them is due from then on.", notice: "The release is in these channels.", target: updateName, details: promotion,
		back: func(v *visit) string { return "/updates/" + url.PathEscape(v.r.PathValue("uuid")) }, call: func(v *visit) (call, error) {
			channels := v.r.PostForm["channel"]
			if channels == nil {
				channels = []string{}
			}
			return call{method: http.MethodPut, path: client.Path("provisioning/updates", v.r.PathValue("uuid")), body: map[string]any{"channels": channels}}, nil
		}},
	{path: "/channels", verb: "Make the channel", notice: "The channel was made.", back: backTo("/updates"), call: func(v *visit) (call, error) {
		return call{method: http.MethodPost, path: client.Path("provisioning/channels"), body: map[string]string{"name": v.r.PostFormValue("name"), "description": v.r.PostFormValue("description")}}, nil
	}},
	{path: "/tokens", verb: "Make the token", notice: "The token was made.", call: tokenCall},
	{path: "/tokens/{uuid}/revoke", verb: "Revoke", ask: "Servers can no longer register with this token. Servers that have registered stay.", notice: "The token was revoked.", target: tokenName, back: backTo("/tokens"), call: func(v *visit) (call, error) {
		return call{method: http.MethodDelete, path: client.Path("provisioning/tokens", v.r.PathValue("uuid"))}, nil
	}},
	{path: "/tokens/{uuid}/seeds", verb: "Make the seed", notice: "The seed was made.", back: backToToken, call: seedCall},
	{path: "/tokens/{uuid}/seeds/{name}/remove", verb: "Remove", ask: "The seed is removed. Images that were downloaded stay as they are.", notice: "The seed was removed.", back: backToToken, call: func(v *visit) (call, error) {
		return call{method: http.MethodDelete, path: client.Path("provisioning/tokens", v.r.PathValue("uuid"), "seeds", v.r.PathValue("name"))}, nil
	}},
	{path: "/access-tokens", verb: "Make the access token", shows: "secret", call: func(v *visit) (call, error) {
		return call{method: http.MethodPost, path: client.Path("access-tokens"), body: map[string]string{"name": v.r.PostFormValue("name"), "role": v.r.PostFormValue("role")}}, nil
	}},
	{path: "/access-tokens/{uuid}/revoke", verb: "Revoke", ask: "Clients with this access token are refused from now on, and their sessions end.", notice: "The access token was revoked.", target: accessTokenName, back: backTo("/tokens"), call: func(v *visit) (call, error) {
		return call{method: http.MethodDelete, path: client.Path("access-tokens", v.r.PathValue("uuid"))}, nil
	}},
}

// noticeOf returns the notice of an action whose path is given; empty: there is none. A page shows only texts of our own.
func noticeOf(path string) string {
	for i := range actions {
		if actions[i].path == path {
			return actions[i].notice
		}
	}
	return ""
}

// confirmation is the data of the page that asks for a confirmation.
type confirmation struct {
	Verb, Ask string
	// Target names the server, the cluster or the other object; empty: there is none.
	Target string
	// Details are further consequences.
	Details []string
	// Path is where the form is sent again, with Fields.
	Path   string
	Fields url.Values
	Back   string
	// Plan or Network is the consequence, as the API shows it; nil: it shows none. Refused: the API will refuse it as it is.
	Plan    *rolling.Plan
	Network *network.Plan
	Refused string
	// Inputs are the fields of a form that was refused, to be corrected.
	Inputs []input
}

// Stopped reports whether the plan has blockers that keep the rollout from starting.
func (c *confirmation) Stopped() bool {
	return c.Plan != nil && !c.Plan.Policy.SkipBlocked && len(c.Plan.Blocked()) > 0
}

// input is a field of a form that was refused.
type input struct {
	Name, Value string
	Long        bool // it may have many lines
}

// inputsOf returns the fields of a form, sorted by their names.
func inputsOf(fields url.Values) (out []input) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		for _, value := range fields[name] {
			out = append(out, input{name, value, len(value) > 60 || strings.Contains(value, "\n")})
		}
	}
	return out
}

// act carries a form out, or asks for a confirmation first.
func (v *visit) act(a *action) {
	if err := v.r.ParseForm(); err != nil {
		v.fail(http.StatusBadRequest, "The form can't be read, or is too large.")
		return
	}
	c, err := a.call(v)
	switch {
	case errors.Is(err, errForm):
		v.ask(a, c, capital(err.Error()))
		return
	case err != nil:
		v.internal(err)
		return
	}
	if a.ask != "" && v.r.PostForm.Get("confirm") == "" {
		v.ask(a, c, "")
		return
	}
	done, shown, err := v.send(a, c)
	var refused *client.Error
	switch {
	case errors.As(err, &refused):
		v.ask(a, c, capital(refused.Message))
	case err != nil:
		v.failed(err)
	case a.shows != "":
		v.show(http.StatusOK, a.shows, layout{Title: a.verb, Section: "tokens", Data: shown})
	default:
		target := done
		if target == "" {
			target = "/"
		}
		http.Redirect(v.w, v.r, target+"?done="+url.QueryEscape(a.path), http.StatusSeeOther)
	}
}

// send sends the request of an action. target is the page to go to. shown is the answer, if the action shows one.
func (v *visit) send(a *action, c call) (target string, shown any, err error) {
	if c.started {
		c.query = withParameter(c.query, "dry-run", "0")
	}
	if a.long {
		return v.sendLong(a, c)
	}
	var out map[string]any
	var into any
	if a.shows != "" {
		into = &out
	}
	done, err := v.api.Send(v.ctx(), c.method, c.path, c.query, c.body, into)
	if err != nil {
		return "", nil, err
	}
	if a.back != nil {
		return a.back(v), out, nil
	}
	return pageOf(done.Location), out, nil
}

// sendLong sends a request that is answered when its change is final. A request that is not refused at once goes on without the page, which shows
// the change, until the Handler is closed.
func (v *visit) sendLong(a *action, c call) (target string, shown any, err error) {
	newest := func() (*client.Change, error) {
		list, _, err := client.List[client.Change](v.h.running, v.api, client.Path("provisioning/changes"), url.Values{"server": {v.r.PathValue("name")}, "limit": {"1"}})
		if err != nil || len(list) == 0 {
			return nil, err
		}
		return &list[0], nil
	}
	before, err := newest()
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(v.ctx()))
	unlink := context.AfterFunc(v.h.running, cancel)
	ended := make(chan error, 1)
	v.h.long.Go(func() {
		defer cancel()
		defer unlink()
		_, err := v.api.Send(ctx, c.method, c.path, c.query, c.body, nil)
		ended <- err
	})
	timer := time.NewTimer(longPatience)
	defer timer.Stop()
	refused := false
	select {
	case err = <-ended:
		refused = client.StatusOf(err) >= 400 && client.StatusOf(err) < 500 // it has changed nothing
	case <-timer.C:
	case <-v.ctx().Done():
	}
	if after, listErr := newest(); !refused && listErr == nil && after != nil && (before == nil || after.UUID != before.UUID) {
		return backToServer(v) + "/changes/" + url.PathEscape(after.UUID), nil, nil // which says how it ended, too
	}
	return a.back(v), nil, err
}

// ask shows the page that asks for a confirmation, with the consequence where the API can show it, or with the refusal.
func (v *visit) ask(a *action, c call, refused string) {
	fields := url.Values{}
	for name, values := range v.r.PostForm {
		if name != "confirm" {
			fields[name] = values
		}
	}
	shown := &confirmation{Verb: a.verb, Ask: a.ask, Path: v.r.URL.Path, Fields: fields, Refused: refused, Back: sameHostReferer(v.r)}
	if a.target != nil {
		shown.Target = a.target(v)
	} else if name := v.r.PathValue("name"); name != "" {
		shown.Target = name
	}
	if refused == "" && a.details != nil {
		details, err := a.details(v)
		if err != nil {
			v.failed(err)
			return
		}
		shown.Details = details
	}
	if refused == "" && (c.plan || c.network) {
		var into any = &shown.Plan
		if c.network {
			into = &shown.Network
		}
		_, err := v.api.Send(v.ctx(), c.method, c.path, withParameter(c.query, "dry-run", "1"), c.body, into)
		var e *client.Error
		if errors.As(err, &e) {
			shown.Refused = capital(e.Message)
		} else if err != nil {
			v.failed(err)
			return
		}
	}
	status := http.StatusOK
	if shown.Refused != "" {
		shown.Inputs = inputsOf(fields)
		status = http.StatusUnprocessableEntity
	}
	v.show(status, "confirm", layout{Title: strings.TrimSuffix(a.verb+": "+shown.Target, ": "), Data: shown})
}

// sameHostReferer returns the path of the page from which a form was sent, "/" if it is not known.
func sameHostReferer(r *http.Request) string {
	u, err := url.Parse(r.Referer())
	if err != nil || u.Host != r.Host {
		return "/"
	}
	return destination(u.RequestURI())
}

func withParameter(query url.Values, name, value string) url.Values {
	out := url.Values{name: {value}}
	for n, values := range query {
		out[n] = values
	}
	return out
}

// pageOf returns the page of a path of the API.
func pageOf(location string) string {
	rest, ok := strings.CutPrefix(location, "/1.0/provisioning/")
	if !ok {
		return ""
	}
	kind, _, _ := strings.Cut(rest, "/")
	if !slices.Contains([]string{"rollouts", "tokens", "servers", "clusters"}, kind) {
		return ""
	}
	return "/" + rest
}
