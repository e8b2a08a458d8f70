// Package browsertest has tests of the page of package webui in a real browser: headless Chromium.
package browsertest
