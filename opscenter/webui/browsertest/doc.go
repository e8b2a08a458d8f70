// Package browsertest has tests of the page of package webui in a real browser: headless Chromium, which must be installed.
//
//	go test ./...                                      # without Chromium they skip, unless OPSCENTER_REQUIRE_CHROMIUM=1
//	OPSCENTER_SCREENSHOTS=/tmp/pages go test ./...     # writes pictures of all pages: light, dark, and on a phone
//
// Each page is checked by check.js for people who hear it or use the keyboard alone.
package browsertest
