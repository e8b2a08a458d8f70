package incusos

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// The server reports whether it needs a reboot. A next version that is not staged is either still being downloaded,
// or failed to boot.
func TestNextVersion(t *testing.T) {
	const idle, busy = `"status":"Update check completed"`, `"status":"Running update check"`
	const none, needs = `"needs_reboot":false`, `"needs_reboot":true`
	for name, c := range map[string]struct {
		environment, config, state string
		needsReboot, backup        bool
	}{
		"nothing new":                     {`"os_version_next":"1"`, ``, idle + `,` + none, false, false},
		"staged":                          {`"os_version_next":"2"`, ``, idle + `,` + needs, true, false},
		"downloads":                       {`"os_version_next":"2"`, ``, busy + `,` + none, false, false},
		"downloads, with auto_reboot":     {`"os_version_next":"2","os_version_alternate":"2"`, `"auto_reboot":true`, busy + `,` + none, false, false},
		"did not boot":                    {`"os_version_next":"2","os_version_alternate":"2"`, ``, idle + `,` + none, false, true},
		"did not boot, with auto_reboot":  {`"os_version_next":"2","os_version_alternate":"2"`, `"auto_reboot":true`, idle + `,` + none, false, true},
		"did not boot, alternate unknown": {`"os_version_next":"2"`, ``, idle + `,` + none, false, true},
		"did not boot, the check failed":  {`"os_version_next":"2"`, ``, `"status":"Failed to check for OS updates",` + none, false, true},
		"another image is the alternate":  {`"os_version_next":"2","os_version_alternate":"0"`, ``, idle + `,` + none, false, false},
		"status unknown":                  {`"os_version_next":"2"`, ``, none, false, false},
		"needs_reboot unknown":            {`"os_version_next":"2"`, ``, idle, true, false},
		"older next version":              {`"os_version_next":"0"`, ``, idle, false, false},
		"only needs_reboot":               {`"os_version":"1"`, ``, needs, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var root osRoot
			var update updateSection
			require.NoError(t, json.Unmarshal(fmt.Appendf(nil, `{"environment":{"os_version":"1",%s}}`, c.environment), &root))
			require.NoError(t, json.Unmarshal(fmt.Appendf(nil, `{"config":{%s},"state":{%s}}`, c.config, c.state), &update))
			version := root.Environment.version(update)
			require.Equal(t, c.needsReboot, version.NeedsReboot)
			require.Equal(t, c.backup, version.BackupImage)
		})
	}
}
