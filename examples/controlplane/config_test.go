package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
)

// file writes a configuration file.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "controlplane.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestPrecedence: a flag is over a variable, that over the file, that over the default.
func TestPrecedence(t *testing.T) {
	c, unknown, err := load(nil, nil, io.Discard)
	require.NoError(t, err)
	require.Empty(t, unknown)
	require.Equal(t, config{listen: "127.0.0.1:7443", interval: poller.DefaultInterval, source: updates.DefaultSource, level: "info", format: "text"}, c)

	path := file(t, "listen: 127.0.0.1:1\nsource-root: file.pem\ninterval: 1m\nlog-level: debug\nupdates: /file\nurl: ''\n# a comment\n")
	environ := []string{"OPSCENTER_CONFIG=" + path, "OPSCENTER_SOURCE_ROOT=environment.pem", "OPSCENTER_INTERVAL=2m", "OPSCENTER_DATA=", "OPSCENTER_TYPO=secret", "HOME=/root", "OPSCENTER="}
	c, unknown, err = load([]string{"-interval", "3m", "-log-format", "json"}, environ, io.Discard)
	require.NoError(t, err)
	require.Equal(t, config{listen: "127.0.0.1:1", interval: 3 * time.Minute, source: updates.DefaultSource, sourceRoot: "environment.pem", updates: "/file", level: "debug", format: "json"}, c)
	require.Equal(t, []string{"OPSCENTER_TYPO"}, unknown)

	// A flag that is its default is given, all the same.
	c, _, err = load([]string{"-interval", "5m", "-config", path}, []string{"OPSCENTER_CONFIG=/not/there"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, 5*time.Minute, c.interval)
	require.Equal(t, "file.pem", c.sourceRoot)

	for _, text := range []string{"", "# nothing\n", "---\n"} {
		_, _, err := load([]string{"-config", file(t, text)}, nil, io.Discard)
		require.NoError(t, err, text)
	}
}

// TestEachSetting: each has its flag, its variable and its key.
func TestEachSetting(t *testing.T) {
	values := map[string]string{"listen": "127.0.0.1:1", "url": "https://x", "data": "d", "socket": "s", "trust": "t", "updates": "u",
		"source": "none", "source-root": "r", "interval": "7s", "log-level": "error", "log-format": "json"}
	want := config{listen: "127.0.0.1:1", url: "https://x", data: "d", socket: "s", trust: "t", updates: "u", source: "none", sourceRoot: "r",
		interval: 7 * time.Second, level: "error", format: "json"}
	var args, environ []string
	var text strings.Builder
	(&config{}).flags(io.Discard).VisitAll(func(f *flag.Flag) {
		value, ok := values[f.Name]
		require.Equal(t, f.Name != "config" && f.Name != "demo", ok, f.Name) // TestDemo has that one
		if ok {
			args = append(args, "-"+f.Name, value)
			environ = append(environ, "OPSCENTER_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))+"="+value)
			text.WriteString(f.Name + ": " + value + "\n")
		}
	})
	for name, from := range map[string]struct{ args, environ []string }{
		"flags": {args, nil}, "environment": {nil, environ}, "file": {[]string{"-config", file(t, text.String())}, nil},
	} {
		c, _, err := load(from.args, from.environ, io.Discard)
		require.NoError(t, err, name)
		require.Equal(t, want, c, name)
	}
}

// TestWrongSettings: an error names the setting, where it is, and the value, unless the setting is unknown: then the value may be a secret.
func TestWrongSettings(t *testing.T) {
	for text, want := range map[string]string{
		"data: d\nlisten-on: hunter2\n":            `line 2: setting "listen-on" is not known`,
		"token: {a: hunter2}\n":                    `line 1: setting "token" is not known`,
		"config: other.yaml\n":                     `line 1: setting "config" is not known`,
		"Listen: :1\n":                             `setting "Listen" is not known`,
		"data: d\ninterval: often\n":               `line 2: interval: invalid value "often": `,
		"interval: 0s\n":                           "-interval is 0s",
		"log-level: loud\n":                        `line 1: log-level: invalid value "loud": debug, info, warn, error is wanted`,
		"log-format: xml\n":                        `line 1: log-format: invalid value "xml": text, json is wanted`,
		"data: d\ndata: e\n":                       "line 2: data: is there twice",
		"data:\n":                                  "line 1: data: one value is wanted",
		"trust: [a.pem, b.pem]\n":                  "line 1: trust: one value is wanted",
		"- data\n":                                 "NAME: VALUE",
		"hunter2\n":                                "NAME: VALUE",
		"data: d\n---\ndata: e\n":                  "more than one document",
		"data: 'd\n":                               "yaml: ",
		"url: https://operator:hunter2@x\n":        "-url: must not hold a user or a password",
		"listen: :1\n":                             "-url is required",
		"updates: ''\nsource-root: /root.pem\n":    "-source-root wants -updates",
		"base: &base {data: hunter2}\n<<: *base\n": `setting "base" is not known`,
	} {
		path := file(t, text)
		_, _, err := load([]string{"-config", path}, nil, io.Discard)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "hunter2", text)
		if strings.Contains(want, "line ") || strings.Contains(want, "yaml") {
			require.ErrorContains(t, err, "-config "+path)
		}
	}
	_, _, err := load(nil, []string{"OPSCENTER_INTERVAL=often"}, io.Discard)
	require.ErrorContains(t, err, `OPSCENTER_INTERVAL: invalid value "often"`)
	_, _, err = load([]string{"-log-level", "loud"}, nil, io.Discard)
	require.ErrorContains(t, err, `invalid value "loud" for flag -log-level: debug, info, warn, error is wanted`)
	_, _, err = load([]string{"-config", "/not/there"}, nil, io.Discard)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "-config /not/there")
	_, _, err = load(nil, []string{"OPSCENTER_CONFIG=/not/there"}, io.Discard)
	require.ErrorIs(t, err, os.ErrNotExist)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-help"}, io.Discard, &out))
	require.Contains(t, out.String(), "OPSCENTER_SOURCE_ROOT")
}

// TestLog: the level and the format are those of the settings, and no secret is logged at any level.
func TestLog(t *testing.T) {
	t.Setenv("OPSCENTER_TYPO", "hunter2")
	path := file(t, "log-format: json\nlog-level: debug\n")
	p := start(t, "-config", path, "-updates", t.TempDir(), "-source", "none")
	token := p.firstToken()
	p.local("PUT", "/1.0/provisioning/tokens/"+token, `{"description":"logged at level info","uses_remaining":1}`, nil)
	p.stop()
	logs := p.logs.String()
	levels := map[string]bool{}
	for line := range strings.Lines(logs) {
		var record struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &record), line)
		require.NotEmpty(t, record.Msg)
		levels[record.Level] = true
	}
	require.True(t, levels["INFO"])
	require.True(t, levels["WARN"])
	require.Contains(t, logs, "OPSCENTER_TYPO")
	require.NotContains(t, logs, "hunter2")
	require.NotContains(t, logs, token)

	p = start(t, "-log-level", "error")
	p.local("PUT", "/1.0/provisioning/tokens/"+p.firstToken(), `{"description":"not logged","uses_remaining":1}`, nil)
	require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, p.cmd.Wait())
	require.Empty(t, p.logs.String())

	err := run(t.Context(), []string{"-listen", "127.0.0.1:0", "-updates", t.TempDir(), "-source", "https://operator:hunter2@x"}, io.Discard, io.Discard)
	require.ErrorContains(t, err, "-source")
	require.NotContains(t, err.Error(), "hunter2")
}

func (p *process) firstToken() string {
	p.t.Helper()
	var tokens []struct {
		UUID string `json:"uuid"`
	}
	p.local("GET", "/1.0/provisioning/tokens?recursion=1", "", &tokens)
	require.Len(p.t, tokens, 1)
	return tokens[0].UUID
}

// shownInDoc returns the part of the package comment that is shown after a line.
func shownInDoc(t *testing.T, after string) string {
	t.Helper()
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(source), after)
	require.True(t, found)
	var out strings.Builder
	for line := range strings.Lines(rest) {
		text := strings.TrimSpace(strings.TrimPrefix(line, "//"))
		if !strings.HasPrefix(line, "//\t") && text != "" && out.Len() > 0 {
			break
		}
		if strings.HasPrefix(line, "//\t") || text == "" {
			out.WriteString(text + "\n")
		}
	}
	return out.String()
}

// unit returns the unit in the package comment, and its command.
func unit(t *testing.T) (text, command string) {
	t.Helper()
	text = shownInDoc(t, "operators' socket is root's to open:\n")
	_, after, found := strings.Cut(text, "\nExecStart=")
	require.True(t, found, text)
	command, _, _ = strings.Cut(after, "\n")
	return text, command
}

// TestDoc: the file in the package comment is a configuration, and the unit runs this program with flags that there are.
func TestDoc(t *testing.T) {
	c, _, err := load([]string{"-config", file(t, shownInDoc(t, "that is no setting. A file:\n"))}, nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, "/run/opscenter/socket", c.socket)
	text, command := unit(t)
	flags := (&config{}).flags(io.Discard)
	require.NoError(t, flags.Parse(strings.Fields(command)[1:]))
	require.Equal(t, "/etc/opscenter/controlplane.yaml", flags.Lookup("config").Value.String())
	require.Contains(t, text, "\nType=exec\n", "the program sends no notification")
}

// directives are those that the unit uses, by section (systemd.unit, systemd.service and systemd.exec).
var directives = map[string]string{
	"Unit": "Description Wants After",
	"Service": "Type ExecStart Restart RestartSec TimeoutStopSec DynamicUser StateDirectory StateDirectoryMode RuntimeDirectory UMask LimitNOFILE " +
		"CapabilityBoundingSet NoNewPrivileges ProtectSystem ProtectHome ProtectProc PrivateTmp PrivateDevices ProtectClock ProtectControlGroups " +
		"ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables RestrictAddressFamilies RestrictNamespaces RestrictRealtime " +
		"RestrictSUIDSGID LockPersonality MemoryDenyWriteExecute SystemCallArchitectures SystemCallFilter SystemCallErrorNumber RemoveIPC",
	"Install": "WantedBy",
}

// TestUnit: the unit has known directives only. Where systemd is installed, it takes the unit.
func TestUnit(t *testing.T) {
	text, command := unit(t)
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch name, _, found := strings.Cut(line, "="); {
		case line == "":
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
			require.Contains(t, directives, section)
		default:
			require.True(t, found, line)
			require.Contains(t, strings.Fields(directives[section]), name, "section %s", section)
		}
	}
	require.Equal(t, "Install", section, "the last section")
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	path := filepath.Join(t.TempDir(), "opscenter.service")
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(text, strings.Fields(command)[0], os.Args[0], 1)), 0o600))
	out, _ := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput() // it may have errors of other units
	require.NotContains(t, string(out), "opscenter.service")
}
