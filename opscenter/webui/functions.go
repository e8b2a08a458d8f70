package webui

import (
	"fmt"
	"html/template"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// functions are those of the templates. They return texts, which the templates escape.
var functions = template.FuncMap{
	"when":     when,
	"escape":   url.PathEscape,
	"plural":   func(n int, word string) string { return plural(n, word, word+"s") },
	"bytes":    func(n any) string { return humanBytes(n) },
	"text":     text,
	"kindname": func(k string) string { return strings.ReplaceAll(k, "_", " ") },
	"state": func(status lifecycle.Status, detail lifecycle.StatusDetail, action lifecycle.Action) string {
		return stateOf(status, detail, action).String()
	},
	"describe": lifecycle.Describe,
	"join":     func(list []string) string { return strings.Join(list, ", ") },
	"short":    func(s string) string { return s[:min(len(s), 12)] },
	"column":   stateName,
	"number":   func(i int) int { return i + 1 },
	"selects":  selects,
	"lines":    properties,
	"has":      func(form url.Values, name, value string) bool { return form.Get(name) == value },
	"percent":  func(part, whole int) int { return 100 * part / max(whole, 1) },
}

// moment is a time on a page: the text that is shown without JavaScript, and the forms for machines and for the hint.
type moment struct{ Machine, Exact, Text string }

// when returns a time for a page; the zero time is none.
func when(t any) moment {
	var at time.Time
	switch t := t.(type) {
	case time.Time:
		at = t
	case *time.Time:
		if t != nil {
			at = *t
		}
	}
	if at.IsZero() {
		return moment{}
	}
	at = at.UTC()
	return moment{at.Format(time.RFC3339), at.Format("2006-01-02 15:04:05 UTC"), at.Format("2006-01-02 15:04 UTC")}
}

// plural returns a number with its word.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func humanBytes(n any) string {
	switch n := n.(type) {
	case uint64:
		return humanize.IBytes(n)
	case int64:
		return humanize.IBytes(uint64(max(n, 0)))
	}
	return ""
}

func stateName(i int) string { return stateNames[i] }

// properties returns properties as lines of the form name=value, sorted.
func properties(p map[string]string) string {
	lines := make([]string, 0, len(p))
	for name, value := range p {
		lines = append(lines, name+"="+value)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// selects says which servers a rollout selects.
func selects(s rolling.Selector) string {
	var parts []string
	if s.All {
		parts = append(parts, "all clusters and servers")
	}
	for name, list := range map[string][]string{"clusters": s.Clusters, "servers": s.Servers} {
		if len(list) > 0 {
			parts = append(parts, name+" "+strings.Join(list, ", "))
		}
	}
	if s.Channel != "" {
		parts = append(parts, "channel "+s.Channel)
	}
	if len(s.Properties) > 0 {
		parts = append(parts, "properties "+strings.ReplaceAll(properties(s.Properties), "\n", ", "))
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}
