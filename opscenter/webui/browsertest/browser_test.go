package browsertest

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter/access"
)

// required says that the tests must not skip: Chromium must be there.
const required = "OPSCENTER_REQUIRE_CHROMIUM"

// screenshots names the variable with the folder for pictures of all pages.
const screenshots = "OPSCENTER_SCREENSHOTS"

// patience bounds the wait for anything on a page.
const patience = 30 * time.Second

// allocator starts browsers.
var allocator context.Context

func TestMain(m *testing.M) {
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		if os.Getenv(required) == "1" {
			fmt.Println("Chromium is missing, and", required, "is set")
			os.Exit(1)
		}
		fmt.Println("SKIP: Chromium is missing, so all tests of this package are skipped")
		os.Exit(0)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.IgnoreCertErrors, // the certificate is made for the test
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.WindowSize(1280, 900))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	browser, end := chromedp.NewContext(ctx)
	if err := chromedp.Do(browser); err != nil {
		fmt.Println("Chromium does not start:", err)
		os.Exit(1)
	}
	allocator = browser
	code := m.Run()
	end()
	stop()
	os.Exit(code)
}

// tab is a tab of a browser of its own, with its own cookies.
type tab struct {
	t   *testing.T
	w   *pagetest.World
	ctx context.Context

	mu       sync.Mutex
	problems []string // the complaints of the browser
}

// open opens a tab, without a session.
func open(t *testing.T, w *pagetest.World) *tab {
	t.Helper()
	ctx, stop := chromedp.NewContext(allocator, chromedp.WithNewBrowserContext())
	t.Cleanup(stop)
	b := &tab{t: t, w: w, ctx: ctx}
	require.NoError(t, chromedp.Do(ctx)) // the context of the first call is that of the tab
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			refused := strings.Contains(m.String(), "status of 422") // the answer to a form that is not filled in well
			if !refused && (m.IsException() || m.Type == "error") {
				b.complain(fmt.Sprintf("%s %s %s", m.Type, m, m.URL))
			}
		}
	}()
	return b
}

func (b *tab) complain(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, text)
}

// quiet checks that the browser has not complained since the last call: of no error in a script, and of nothing that the
// policy forbids.
func (b *tab) quiet(about string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.problems, about)
	b.problems = nil
}

// run performs steps in the tab.
func (b *tab) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		require.NoError(b.t, err, "the page shows: %s", b)
	}
}

// visit loads a page.
func (b *tab) visit(path string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.w.URL+path), chromedp.WaitReady("main"))
}

// logIn logs in with the form.
func (b *tab) logIn(role access.Role) *tab {
	b.t.Helper()
	secret := b.w.AccessToken(fmt.Sprintf("browser %s %d", role, time.Now().UnixNano()%1e6), access.Grant{Role: role})
	b.visit("/login")
	b.run(chromedp.SendKeys("#token", secret), chromedp.Submit("#token"), chromedp.WaitReady("header .me"))
	return b
}

// value returns the value of an expression in the page.
func value[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(b.t, err, expression)
	return out
}

// until waits until an expression is true in the page.
func (b *tab) until(expression string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		ctx, cancel := context.WithTimeout(b.ctx, patience)
		defer cancel()
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression)) // an error is that of a page that is being left
		return err == nil && ok
	}, patience, 20*time.Millisecond, "%s; the page shows: %s", expression, b)
}

// String is the text that the page shows.
func (b *tab) String() string {
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText.slice(0, 2500)"))
	return text
}

// shows waits until the page shows a text.
func (b *tab) shows(text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// press presses the button of a text, and waits for the page after it.
func (b *tab) press(text string) {
	b.t.Helper()
	b.until("document.readyState === 'complete'")
	value[bool](b, "window.leaving = true")
	b.run(chromedp.Click(fmt.Sprintf("//main//button[normalize-space()=%q]", text), chromedp.NodeVisible))
	b.until("!window.leaving && document.readyState === 'complete'")
}

// click clicks the first element of a CSS selector.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.readyState === 'complete' && document.querySelector(%q) !== null", selector))
	b.run(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// picture stores a screenshot of the page for people to look at.
func (b *tab) picture(name string) {
	b.t.Helper()
	folder := os.Getenv(screenshots)
	if folder == "" {
		return
	}
	require.NoError(b.t, os.MkdirAll(folder, 0o755))
	shoot := func(kind string, width, height int64, scheme string) {
		b.run(chromedp.EmulateViewport(width, height))
		b.media(scheme)
		data, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		require.NoError(b.t, err)
		require.NoError(b.t, os.WriteFile(filepath.Join(folder, name+"-"+kind+".png"), data, 0o644))
	}
	shoot("light", 1280, 1000, "light")
	shoot("dark", 1280, 1000, "dark")
	shoot("phone", 390, 844, "light")
	b.run(chromedp.ResetViewport())
}

// media sets whether the reader likes dark or light pages.
func (b *tab) media(scheme string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	require.NoError(b.t, err)
}

//go:embed check.js
var checks string

// accessible checks the page for people who do not see it, or use the keyboard alone.
func (b *tab) accessible(about string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		b.media(scheme)
		found := value[[]string](b, checks)
		require.Empty(b.t, found, "%s, %s", about, scheme)
	}
	b.run(chromedp.EmulateViewport(390, 844))
	wide := value[[]string](b, `[...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll, pre, .timeline") && e.getBoundingClientRect().right > 391).map(e => e.outerHTML.slice(0, 150))`)
	require.Empty(b.t, wide, "%s: it is wider than a phone", about)
	b.run(chromedp.ResetViewport())
}

// name is the name of a page's pictures.
func name(path string) string {
	path, _, _ = strings.Cut(strings.Trim(path, "/"), "?")
	if path == "" {
		return "fleet"
	}
	return strings.NewReplacer("/", "-", ":", "").Replace(path)
}
