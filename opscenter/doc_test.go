package opscenter_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
)

// TestCosts requires each budget and each test that doc.go names.
func TestCosts(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	sources := map[string]string{} // by package
	tests := ""
	require.NoError(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.HasSuffix(path, "_test.go") {
			tests += string(data)
		} else {
			sources[filepath.Base(filepath.Dir(path))] += string(data)
		}
		return err
	}))
	names := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(doc), -1)
	require.Greater(t, len(names), 25)
	for _, name := range names {
		require.Contains(t, tests, "\nfunc "+name+"(t *testing.T)", name)
	}
	budgets := regexp.MustCompile(`\b(opscenter|lifecycle|incusos|inventory|poller|httpapi|badgerstore)\.((?:Default|Max|Err)\w+|Options\.\w+)`).FindAllStringSubmatch(string(doc), -1)
	require.Greater(t, len(budgets), 25)
	for _, budget := range budgets {
		name := strings.TrimPrefix(budget[2], "Options.")
		require.Regexp(t, `(?m)^\s*(const |var )?`+name+`\b`, sources[budget[1]], budget[0])
	}
	count := func(n int) string { // with commas
		out := fmt.Sprint(n)
		for i := len(out) - 3; i > 0; i -= 3 {
			out = out[:i] + "," + out[i:]
		}
		return out
	}
	size := func(n int64) string {
		switch {
		case n >= 1<<20 && n%(1<<20) == 0:
			return fmt.Sprint(n>>20, " MiB")
		case n%(1<<10) == 0:
			return fmt.Sprint(n>>10, " KiB")
		}
		return fmt.Sprint(n, " bytes")
	}
	for name, shown := range map[string]string{
		"incusos.DefaultMaxBody":               size(incusos.DefaultMaxBody),
		"lifecycle.MaxHardwareSize":            size(lifecycle.MaxHardwareSize + lifecycle.MaxNetworkSize + lifecycle.MaxSecuritySize + lifecycle.MaxStorageSize),
		"opscenter.Options.MaxFactsHistory":    count(opscenter.DefaultMaxFactsHistory),
		"poller.DefaultTimeout":                fmt.Sprint(poller.DefaultTimeout.Seconds(), " s"),
		"poller.DefaultMinTimeout":             fmt.Sprint(poller.DefaultMinTimeout.Seconds(), " s"),
		"poller.DefaultSlowConcurrency":        count(poller.DefaultSlowConcurrency),
		"incusos.DefaultMaxConnsPerServer":     count(incusos.DefaultMaxConnsPerServer),
		"inventory.DefaultMaxObjects":          count(inventory.DefaultMaxObjects),
		"inventory.DefaultMaxSize":             size(inventory.DefaultMaxSize),
		"inventory.MaxNameLength":              size(inventory.MaxNameLength),
		"inventory.MaxMembers":                 count(inventory.MaxMembers),
		"inventory.MaxObjectSize":              size(inventory.MaxObjectSize),
		"incusos.DefaultMaxObject":             size(incusos.DefaultMaxObject),
		"inventory.DefaultMaxLooks":            count(inventory.DefaultMaxLooks) + "/s",
		"inventory.DefaultMaxPending":          count(inventory.DefaultMaxPending),
		"inventory.DefaultMaxStreams":          count(inventory.DefaultMaxStreams),
		"inventory.DefaultMaxEventsBackoff":    fmt.Sprint(inventory.DefaultMaxEventsBackoff.Hours(), " h"),
		"inventory.DefaultScanTimeout":         fmt.Sprint(inventory.DefaultScanTimeout.Minutes(), " min"),
		"inventory.DefaultMaxUnitChanges":      count(inventory.DefaultMaxUnitChanges),
		"opscenter.Options.SelfUpdateInterval": fmt.Sprint(opscenter.DefaultSelfUpdateInterval.Seconds(), " s"),
		"opscenter.Options.MaxServerEvents":    count(opscenter.DefaultMaxServerEvents),
		"httpapi.DefaultMaxBody":               size(httpapi.DefaultMaxBody),
		"httpapi.DefaultWriteTimeout":          fmt.Sprint(httpapi.DefaultWriteTimeout.Seconds(), " s"),
		"httpapi.DefaultFailuresPerMinute":     count(httpapi.DefaultFailuresPerMinute),
	} {
		require.Regexp(t, regexp.QuoteMeta(name)+`\b[^\n]*  `+regexp.QuoteMeta(shown)+`\b`, string(doc), "the default of %s", name)
	}
}
