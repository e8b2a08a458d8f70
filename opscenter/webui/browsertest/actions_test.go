package browsertest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// set fills a field in.
func (b *tab) set(id, text string) {
	b.t.Helper()
	value[bool](b, fmt.Sprintf("((e) => { e.value = %q; e.dispatchEvent(new Event('input', { bubbles: true })); return true })(document.getElementById(%q))", text, id))
}

// TestServerActions carries out each action on a server, to its end, which the page shows without being loaded again.
func TestServerActions(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	b := open(t, w).logIn(access.RoleOperator)
	s := w.Servers["s1"]
	for _, action := range []struct {
		button string
		done   func() bool
	}{
		{"Evacuate", func() bool { return !s.Instances()[0].Running }},
		{"Restore", func() bool { return s.Instances()[0].Running }},
		{"Update", func() bool { running, staged := s.Version(); return pagetest.NewVersion == max(running, staged) }},
		{"Reboot", func() bool { return s.Reboots() > 0 }},
	} {
		b.visit("/servers/s1")
		b.press(action.button + "…")
		b.shows("Plan")
		b.shows("s1")
		b.press(action.button)
		require.Contains(t, value[string](b, "location.pathname"), "/rollouts/", "the page shows how it goes")
		value[bool](b, "window.stayed = true")
		b.until("document.querySelector('#state h2').innerText.trim() === 'done'")
		require.True(t, value[bool](b, "window.stayed"), "the page was loaded again")
		require.True(t, action.done(), action.button)
	}
	b.visit("/servers/s1")
	b.press("Poll now")
	b.shows("The server was polled.")
	b.click("#edit summary")
	b.set("description", "rack <7>")
	b.set("properties", "rack = 7\nrow=b")
	b.press("Save")
	b.shows("The server was changed.")
	info, err := w.Registry.Server(t.Context(), "s1")
	require.NoError(t, err)
	require.Equal(t, "rack <7>", info.Description)
	require.Equal(t, map[string]string{"rack": "7", "row": "b"}, info.Properties)
	b.press("Power off…")
	b.press("Power off")
	b.until("document.querySelector('#state h2').innerText.trim() === 'done'")
	b.visit("/servers/s1")
	b.until("document.querySelector('#state .state').innerText.includes('offline')")
	b.quiet("actions")
}

// TestRollingUpdate plans a rolling update, starts it, pauses and resumes it, and sees it end.
func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{Members: 3, Simulated: func(o *incusostest.Options) {
		o.UpdateDelay, o.RebootDelay = 300*time.Millisecond, 300*time.Millisecond
	}})
	b := open(t, w).logIn(access.RoleOperator)
	b.visit("/")
	b.click("#now a")
	b.shows("Show the plan")
	b.visit("/rollouts/new?all=1")
	b.press("Show the plan…")
	b.shows("m1")
	b.picture("plan")
	b.accessible("plan")
	b.press("Start the rollout")
	b.shows("running")
	b.press("Pause")
	b.until("document.querySelector('#state h2').innerText.trim() === 'paused'")
	b.picture("rollout-paused")
	b.accessible("a paused rollout")
	b.visit("/")
	b.shows("Look at the paused rollout")
	b.click("#now a")
	b.shows("Resume")
	b.press("Resume")
	b.until("document.querySelector('#state h2').innerText.trim() === 'done'")
	for name, s := range w.Servers {
		running, _ := s.Version()
		require.Equal(t, pagetest.NewVersion, running, name)
	}
	b.quiet("a rolling update")
}

// TestCancel cancels a rollout in each of the three ways.
func TestCancel(t *testing.T) {
	t.Parallel()
	for button, mode := range map[string]rolling.CancelMode{"Cancel: finish what has begun": rolling.CancelFinish, "Cancel: stop": rolling.CancelStop, "Cancel: stop and restore": rolling.CancelRestore} {
		t.Run(button, func(t *testing.T) {
			t.Parallel()
			w := pagetest.Start(t, pagetest.Options{Members: 3, Simulated: func(o *incusostest.Options) { o.UpdateDelay = time.Second }})
			b := open(t, w).logIn(access.RoleOperator)
			b.visit("/rollouts/new?all=1")
			b.press("Show the plan…")
			b.press("Start the rollout")
			b.press("Pause")
			b.press(button + "…")
			b.press(button)
			b.until("['done', 'cancelled'].includes(document.querySelector('#state h2').innerText.trim())")
			list, err := w.Rollouts.List(t.Context(), "", 1)
			require.NoError(t, err)
			require.Equal(t, mode, list.Rollouts[0].State.Cancel)
			b.quiet(button)
		})
	}
}

// TestNetworkChange changes the network of a server: it sees the differences, and the change until it is confirmed. Another change makes the server
// unreachable, and is undone.
func TestNetworkChange(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{Single: 1, Interval: time.Minute})
	b := open(t, w).logIn(access.RoleOperator)
	b.visit("/servers/s1/network")
	b.set("config", "{")
	b.press("Show the differences…")
	b.shows("is no JSON")
	b.visit("/servers/s1/network")
	value[bool](b, `(() => { const e = document.getElementById("config"); const c = JSON.parse(e.value); c.dns = { ...c.dns, hostname: "renamed" }; e.value = JSON.stringify(c); return true })()`)
	b.press("Show the differences…")
	b.shows("dns.hostname")
	b.picture("network-differences")
	b.accessible("differences")
	b.press("Change the network")
	b.until("document.querySelector('#change h2')?.innerText.trim() === 'done'")
	b.picture("network-change")
	b.accessible("a change")
	require.Contains(t, string(w.Servers["s1"].NetworkConfig()), "renamed")

	info, err := w.Registry.Server(t.Context(), "s1")
	require.NoError(t, err)
	host := strings.Split(strings.TrimPrefix(info.ConnectionURL, "https://"), ":")[0]
	b.visit("/servers/s1/network")
	value[bool](b, `(() => { const e = document.getElementById("config"); const c = JSON.parse(e.value); c.dns = { ...c.dns, hostname: "lost" }; e.value = JSON.stringify(c); return true })()`)
	b.set("confirmation-timeout", "4s")
	b.press("Show the differences…")
	w.Servers["s1"].OnMove(func() { w.Servers["s1"].KillAddress(host, true) }, func() { w.Servers["s1"].KillAddress(host, false) })
	b.press("Change the network")
	b.until("/^0:0[0-4] left/.test(document.querySelector('[data-countdown]')?.textContent ?? '')")
	b.until("document.querySelector('#change h2')?.innerText.trim() === 'rolled back'")
	b.shows("The server has its former configuration again.")
	b.quiet("changes of the network")
}

// TestFeed promotes a release, and makes a channel.
func TestFeed(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{})
	b := open(t, w).logIn(access.RoleAdmin)
	b.visit("/updates")
	b.click("#new-channel summary")
	b.set("name", "testing")
	b.press("Make the channel")
	b.shows("The channel was made.")
	b.press("Ask the source now")
	b.shows("The source is being asked")
	update := w.Updates.Snapshot().Updates()[0]
	b.visit("/updates/" + update.UUID)
	b.click("input[value=testing]")
	b.press("Promote…")
	b.press("Promote")
	b.shows("The release is in these channels.")
	require.Contains(t, w.Updates.Snapshot().Updates()[0].Channels, "testing")
	b.quiet("the feed")
}

// TestTokens makes a token, a seed and an access token.
func TestTokens(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{})
	b := open(t, w).logIn(access.RoleAdmin)
	b.visit("/tokens")
	b.set("description", "rack 7")
	b.press("Make the token")
	b.shows("The token was made.")
	b.set("name", "lab")
	b.set("target", "nvme0")
	b.click("#more summary")
	b.set("network", `{"interfaces":[{"name":"mgmt"}]}`)
	b.press("Make the seed")
	b.shows("hwaddr") // the validation of the seed names the field
	b.accessible("a refused seed")
	require.Equal(t, "lab", value[string](b, "document.getElementById('field-name').value"), "what was filled in is kept")
	b.set("field-network", "")
	b.press("Make the seed")
	b.shows("The seed was made.")
	image := value[string](b, "[...document.querySelectorAll('a[download]')].find(a => a.href.includes('iso')).href")
	require.Greater(t, value[float64](b, fmt.Sprintf("fetch(%q).then(r => r.ok ? r.arrayBuffer() : null).then(a => a.byteLength)", image)), 1000.0, "the image")
	b.press("Remove…")
	b.press("Remove")
	b.shows("The seed was removed.")
	b.visit("/tokens")
	b.set("access-name", "reader")
	b.press("Make the access token")
	b.shows("only time")
	secret := value[string](b, "document.getElementById('secret').value")
	other := open(t, w)
	other.visit("/login#" + secret)
	require.NotContains(t, value[string](other, "location.href"), secret, "it leaves the address")
	other.press("Log in") // a link does not log in by itself
	other.shows("viewer")
	require.NotContains(t, value[string](other, "location.href"), secret)
	b.visit("/tokens")
	value[bool](b, "document.querySelector('button[aria-label=\"Revoke reader\"]').click(), true")
	b.shows("sessions end")
	b.press("Revoke")
	b.shows("The access token was revoked.")
	other.visit("/servers")
	other.shows("Log in")
	b.click("header form button")
	b.until("location.pathname === '/login'")
	b.visit("/servers")
	b.shows("Log in")
	b.quiet("tokens")
}

// TestLive: an open page shows a change of a server by itself.
func TestLive(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{Single: 3})
	b := open(t, w).logIn(access.RoleViewer)
	b.visit("/")
	b.until("document.querySelectorAll('#map .tile').length === 3")
	value[bool](b, "window.stayed = true")
	w.Servers["s2"].PowerOff("")
	b.until("document.querySelector('#map .tile[title^=s2]').classList.contains('failed')")
	b.until("document.querySelector('[data-count=failed]').innerText === '1'")
	b.until("document.querySelector('#attention').innerText.includes('s2')")
	b.until("document.querySelector('#warnings').innerText.includes('unreachable')")
	w.Servers["s2"].PowerOn()
	b.until("!document.querySelector('#map .tile[title^=s2]').classList.contains('failed')")
	require.NoError(t, w.Registry.DeleteServer(t.Context(), "s3", true))
	b.until("document.querySelectorAll('#map .tile').length === 2")
	// The arrow keys go from tile to tile.
	value[bool](b, "document.querySelector('#map .tile').focus(), true")
	b.run(chromedp.KeyEvent(kb.ArrowRight))
	require.Equal(t, "s2", strings.Split(value[string](b, "document.activeElement.title"), ":")[0])
	require.True(t, value[bool](b, "window.stayed"))
	// The search shows results while it is typed.
	w.ReadInventory(2)
	b.visit("/inventory")
	b.until("document.querySelector('#results').innerText.includes('web-s1')")
	value[bool](b, "window.stayed = true")
	b.set("search", "s2")
	b.until("!document.querySelector('#results').innerText.includes('web-s1') && document.querySelector('#results').innerText.includes('web-s2')")
	require.Contains(t, value[string](b, "location.search"), "search=s2")
	require.True(t, value[bool](b, "window.stayed"))
	// The stream comes again after the control plane was away, or the page says that it is lost.
	b.visit("/")
	b.until("document.documentElement.dataset.live === 'open'")
	w.Stop()
	b.until("!document.getElementById('live').hidden")
	b.shows("The connection is lost")
}

// TestWithoutJavaScript: all pages can be read, and forms can be sent.
func TestWithoutJavaScript(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{Members: 3, Single: 1})
	b := open(t, w).logIn(access.RoleAdmin)
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(t, err)
	for path, text := range map[string]string{"/": "needs JavaScript", "/servers": "m1", "/servers/m1": "IncusOS", "/clusters/c1": "m3", "/updates": pagetest.NewVersion, "/audit": "Outcome", "/tokens": "Make a token"} {
		b.visit(path)
		html, err := chromedp.Run(b.ctx, chromedp.OuterHTML("html"))
		require.NoError(t, err)
		require.Contains(t, html, text, path)
	}
	b.visit("/servers/s1")
	b.run(chromedp.Click("//button[normalize-space()='Reboot…']"), chromedp.WaitReady("#plan-title"))
	b.run(chromedp.Click("//main//button[normalize-space()='Reboot']"), chromedp.WaitReady("#state-title"))
	require.Eventually(t, func() bool { return w.Servers["s1"].Reboots() == 1 }, patience, 20*time.Millisecond)
}

// hostile are texts of a hostile server.
var hostile = []string{`<script>window.hacked = 1</script>`, `"><img src=x onerror="window.hacked=1">`, `'-window.hacked-'`, `javascript:window.hacked=1`, `</textarea><svg onload=window.hacked=1>`, "\u202egnp.exe"}

// hostileHardware are facts that a hostile server makes up.
func hostileHardware(t *testing.T) json.RawMessage {
	t.Helper()
	text := strings.Join(hostile, " ")
	object, list := func(names ...string) map[string]any {
		out := map[string]any{}
		for _, name := range names {
			out[name] = text
		}
		return out
	}, func(one any) []any { return []any{one} }
	card := object("vendor", "product", "driver")
	card["ports"] = list(object("id", "address"))
	data, err := json.Marshal(map[string]any{"system": object("vendor", "product", "serial"), "cpu": map[string]any{"sockets": list(object("name")), "total": 1},
		"network": map[string]any{"cards": list(card)}, "storage": map[string]any{"disks": list(object("id", "model"))}, text: text})
	require.NoError(t, err)
	return data
}

// TestHostile: no text of a server runs as code, or loads anything.
func TestHostile(t *testing.T) {
	t.Parallel()
	w := pagetest.Start(t, pagetest.Options{Single: 1, Simulated: func(o *incusostest.Options) { o.Hardware = hostileHardware(t) }})
	for i, text := range hostile {
		w.Servers["s1"].AddInstance("default", text, true)
		require.NoError(t, w.Registry.EditServer(t.Context(), "s1", func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
			spec.Description += text
			if spec.Properties == nil {
				spec.Properties = map[string]string{}
			}
			spec.Properties[fmt.Sprintf("p%d", i)] = text
			return nil
		}))
	}
	require.NoError(t, w.Registry.Warnings().Raise(t.Context(), "s1", warning.Input{Kind: warning.Unreadable, Message: strings.Join(hostile, " ")}))
	b := open(t, w).logIn(access.RoleAdmin)
	seen := map[string]bool{}
	paths := []string{"/", "/servers?column=description", "/inventory"}
	for len(paths) > 0 && len(seen) < 40 {
		path := paths[0]
		paths = paths[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		b.visit(path)
		require.True(t, value[bool](b, "window.hacked === undefined && document.querySelectorAll('main script, main svg, main img').length === 0"), path)
		for _, link := range value[[]string](b, "[...document.querySelectorAll('main a')].map(a => a.getAttribute('href'))") {
			if strings.HasPrefix(link, "/") && !strings.HasPrefix(link, "/1.0/") {
				paths = append(paths, link)
			}
		}
		b.quiet(path)
	}
	b.visit("/servers/s1")
	b.shows("window.hacked") // the hardware is shown as the text that it is
}

// TestTenThousand: the fleet page of 10,000 servers is there at once, and its map is complete, and moves.
func TestTenThousand(t *testing.T) {
	t.Parallel()
	const servers = 10_000
	w := pagetest.Start(t, pagetest.Options{Single: 1})
	for i := range servers - 1 {
		_, err := w.Registry.PreRegister(t.Context(), opscenter.PreRegistration{Name: fmt.Sprintf("rack%03d-server%05d", i/40, i)})
		require.NoError(t, err)
	}
	b := open(t, w).logIn(access.RoleViewer)
	began := time.Now()
	b.visit("/")
	b.until(fmt.Sprintf("document.querySelectorAll('#map .tile').length === %d", servers))
	t.Logf("the map of %d servers is drawn %s after the click", servers, time.Since(began))
	b.picture("fleet-10000")
	w.Servers["s1"].PowerOff("")
	b.until("document.querySelector('#map .tile[title^=\"s1:\"]').classList.contains('failed')")
	b.quiet("10,000 servers")
}
