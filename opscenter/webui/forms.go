package webui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/client"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// readProperties reads lines of the form name=value.
func readProperties(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("%w has a property that is not of the form name=value: %.80q", errForm, line)
		}
		out[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return out, nil
}

// words returns the words of a field, which may be separated by spaces, commas and lines.
func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' })
}

// networkCall is the request that changes the network of a server.
func networkCall(v *visit) (call, error) {
	c := call{method: http.MethodPut, path: client.Path("provisioning/servers", v.r.PathValue("name"), "system/network"), query: url.Values{}, network: true}
	var config json.RawMessage
	decoder := json.NewDecoder(strings.NewReader(v.r.PostFormValue("config")))
	if err := decoder.Decode(&config); err != nil {
		return c, fmt.Errorf("%w: the configuration is no JSON, at byte %d: %w", errForm, decoder.InputOffset(), err)
	}
	c.body = map[string]any{"config": config}
	if timeout := strings.TrimSpace(v.r.PostFormValue("confirmation-timeout")); timeout != "" {
		c.query.Set("confirmation-timeout", timeout)
	}
	if v.r.PostFormValue("accept-risk") == "1" {
		c.query.Set("accept-risk", "1")
	}
	return c, nil
}

// rolloutCall is the request that plans and starts a rollout.
func rolloutCall(v *visit) (call, error) {
	form := v.r.PostForm
	c := call{method: http.MethodPost, path: client.Path("provisioning/rollouts"), plan: true, started: true}
	selector := rolling.Selector{All: form.Get("all") == "1", Clusters: words(form.Get("clusters")), Servers: words(form.Get("servers")), Channel: form.Get("channel")}
	if selector.All && (len(selector.Clusters)+len(selector.Servers) > 0 || selector.Channel != "") {
		return c, fmt.Errorf("%w selects all, and some by name: choose one", errForm)
	}
	policy := rolling.Policy{Goal: rolling.Goal(form.Get("goal")), Canaries: words(form.Get("canaries")), SkipBlocked: form.Get("skip_blocked") == "1"}
	for name, into := range map[string]*int{"parallel": &policy.Parallel, "max_unavailable": &policy.MaxUnavailable} {
		if value := form.Get(name); value != "" {
			if _, err := fmt.Sscan(value, into); err != nil {
				return c, fmt.Errorf("%w: %s %.20q is no number", errForm, strings.ReplaceAll(name, "_", " "), value)
			}
		}
	}
	if value := strings.TrimSpace(form.Get("soak")); value != "" {
		soak, err := time.ParseDuration(value)
		if err != nil {
			return c, fmt.Errorf("%w: the pause %.20q is no duration, as 30m", errForm, value)
		}
		policy.Soak = soak
	}
	c.body = map[string]any{"selector": selector, "policy": policy}
	return c, nil
}

// tokenCall is the request that makes a token.
func tokenCall(v *visit) (call, error) {
	form := v.r.PostForm
	c := call{method: http.MethodPost, path: client.Path("provisioning/tokens")}
	var uses, days int
	for name, into := range map[string]*int{"uses": &uses, "days": &days} {
		if _, err := fmt.Sscan(form.Get(name), into); err != nil || *into < 1 {
			return c, fmt.Errorf("%w: %s %.20q is no number above 0", errForm, name, form.Get(name))
		}
	}
	c.body = map[string]any{"description": form.Get("description"), "uses_remaining": uses, "expire_at": time.Now().UTC().AddDate(0, 0, days), "channel": form.Get("channel")}
	return c, nil
}

// seedCall is the request that makes a seed.
func seedCall(v *visit) (call, error) {
	form := v.r.PostForm
	c := call{method: http.MethodPost, path: client.Path("provisioning/tokens", v.r.PathValue("uuid"), "seeds")}
	seeds := map[string]json.RawMessage{}
	if applications := words(form.Get("applications")); len(applications) > 0 {
		type application struct {
			Name string `json:"name"`
		}
		var list []application
		for _, name := range applications {
			list = append(list, application{name})
		}
		data, err := json.Marshal(map[string]any{"applications": list})
		if err != nil {
			return c, err
		}
		seeds["applications"] = data
	}
	if form.Get("install") == "1" {
		install := map[string]any{"force_install": form.Get("force_install") == "1", "force_reboot": true}
		if target := strings.TrimSpace(form.Get("target")); target != "" {
			install["target"] = map[string]string{"id": target}
		}
		data, err := json.Marshal(install)
		if err != nil {
			return c, err
		}
		seeds["install"] = data
	}
	for _, name := range []string{"network", "update", "incus", "security"} {
		if value := strings.TrimSpace(form.Get(name)); value != "" {
			if !json.Valid([]byte(value)) {
				return c, fmt.Errorf("%w: %s is no JSON", errForm, name)
			}
			seeds[name] = json.RawMessage(value)
		}
	}
	c.body = map[string]any{"name": form.Get("name"), "description": form.Get("description"), "public": form.Get("public") == "1", "seeds": seeds}
	return c, nil
}

// updateName is the version of the release of a form.
func updateName(v *visit) string {
	found, err := client.Get[client.Update](v.ctx(), v.api, client.Path("provisioning/updates", v.r.PathValue("uuid")), nil)
	if err != nil {
		return ""
	}
	return found.Version
}

// tokenName is the description of the token of a form.
func tokenName(v *visit) string {
	found, err := client.Get[client.Token](v.ctx(), v.api, client.Path("provisioning/tokens", v.r.PathValue("uuid")), nil)
	if err != nil {
		return ""
	}
	return found.Description
}

// accessTokenName is the name of the access token of a form.
func accessTokenName(v *visit) string {
	found, err := client.Get[accesstoken.Token](v.ctx(), v.api, client.Path("access-tokens", v.r.PathValue("uuid")), nil)
	if err != nil {
		return ""
	}
	return found.Name
}

// promotion says which channels get or lose a release, and how many servers follow each.
func promotion(v *visit) (details []string, err error) {
	found, err := client.Get[client.Update](v.ctx(), v.api, client.Path("provisioning/updates", v.r.PathValue("uuid")), nil)
	if err != nil {
		return nil, err
	}
	followers, err := v.followers()
	wanted := v.r.PostForm["channel"]
	for _, c := range wanted {
		if !slices.Contains(found.Channels, c) {
			details = append(details, fmt.Sprintf("Channel %s will offer it, to %s.", c, plural(followers[c], "server", "servers")))
		}
	}
	for _, c := range found.Channels {
		if !slices.Contains(wanted, c) {
			details = append(details, fmt.Sprintf("Channel %s will no longer offer it, to %s.", c, plural(followers[c], "server", "servers")))
		}
	}
	if details == nil {
		details = []string{"Nothing changes."}
	}
	return details, err
}
