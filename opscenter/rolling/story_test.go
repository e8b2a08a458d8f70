package rolling_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	yaml "go.yaml.in/yaml/v3"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

var update = flag.Bool("update", false, "write what happens into the stories; read the difference before you commit it")

// TestStories plays testdata/*.txt. A story says what the fleet is, what is asked for, what
// happens meanwhile, and what comes of it:
//
//	-- fleet --      a line for each server: its name, and what is said of it (see addServer)
//	-- rollout --    selector and policy, in YAML, durations as 15m
//	-- events --     what happens, when, as "+10m offline a"
//	-- plan --       the plan before it begins
//	-- story --      what happens, by time since the beginning
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 30)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			head, parts := sections(string(text))
			w := newWorld()
			plan, story := play(t, w, parts)
			if *update {
				parts["plan"], parts["story"] = plan, story
				require.NoError(t, os.WriteFile(file, []byte(join(head, parts)), 0o644))
				return
			}
			require.Equal(t, parts["plan"], plan)
			require.Equal(t, parts["story"], story)
		})
	}
}

var sectionNames = []string{"fleet", "rollout", "events", "plan", "story"}

func sections(text string) (head string, parts map[string]string) {
	parts = map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "-- ") && strings.HasSuffix(trimmed, " --") {
			name = strings.Trim(trimmed, "- ")
			continue
		}
		if name == "" {
			head += line
		} else {
			parts[name] += line
		}
	}
	return head, parts
}

func join(head string, parts map[string]string) string {
	out := head
	for _, name := range sectionNames {
		if parts[name] != "" {
			out += "-- " + name + " --\n" + parts[name]
		}
	}
	return out
}

// rolloutFile is a rollout as stories write it.
type rolloutFile struct {
	Select   rolling.Selector
	Goal     rolling.Goal
	Max      int `yaml:"max_unavailable"`
	Parallel int
	Canaries []string
	Soak     time.Duration
	Waves    []struct {
		Name       string
		Names      []string
		Properties map[string]string
		Percent    int
		Soak       time.Duration
	}
	Windows []struct {
		Days             []string
		Start, End, Zone string
	}
	Delay         time.Duration `yaml:"post_restore_delay"`
	Evacuate      string        `yaml:"evacuate_mode"`
	Restore       string        `yaml:"restore_mode"`
	StepTimeout   time.Duration `yaml:"step_timeout"`
	RebootTimeout time.Duration `yaml:"reboot_timeout"`
	GateTimeout   time.Duration `yaml:"gate_timeout"`
	Retries       int
	Threshold     int      `yaml:"stop_threshold"`
	Control       []string `yaml:"control_plane"`
	Force         bool
	Skip          bool `yaml:"skip_blocked"`
}

func (f *rolloutFile) policy() rolling.Policy {
	p := rolling.Policy{Goal: f.Goal, MaxUnavailable: f.Max, Parallel: f.Parallel, Canaries: f.Canaries, Soak: f.Soak, PostRestoreDelay: f.Delay,
		EvacuateMode: f.Evacuate, RestoreMode: f.Restore, StepTimeout: f.StepTimeout, RebootTimeout: f.RebootTimeout, GateTimeout: f.GateTimeout,
		Retries: f.Retries, StopThreshold: f.Threshold, ControlPlane: f.Control, Force: f.Force, SkipBlocked: f.Skip}
	for _, w := range f.Waves {
		p.Waves = append(p.Waves, rolling.Wave{Name: w.Name, Names: w.Names, Properties: w.Properties, Percent: w.Percent, Soak: w.Soak})
	}
	for _, w := range f.Windows {
		p.Windows = append(p.Windows, rolling.Window{Days: w.Days, Start: w.Start, End: w.End, Zone: w.Zone})
	}
	return p
}

func play(t *testing.T, w *world, parts map[string]string) (string, string) {
	t.Helper()
	w.offers["stable"] = map[string]string{"os": "2", "incus": "2", "migration-manager": "2"}
	for line := range strings.Lines(parts["fleet"]) {
		addServer(t, w, strings.TrimSpace(line))
	}
	var file rolloutFile
	require.NoError(t, yaml.Unmarshal([]byte(parts["rollout"]), &file))
	plan, err := w.start(file.Select, file.policy())
	if err != nil {
		return "error: " + err.Error() + "\n", ""
	}
	if len(plan.Blocked()) > 0 && !file.Skip {
		return plan.String(), ""
	}
	for line := range strings.Lines(parts["events"]) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		at, err := time.ParseDuration(strings.TrimPrefix(fields[0], "+"))
		require.NoError(t, err, line)
		w.after(at, func() { playEvent(t, w, fields[1:]) })
	}
	w.run(14 * 24 * time.Hour)
	for _, u := range w.units {
		if u.Waiting != "" && !w.state.Status.Ended() {
			w.log("%s waits for: %s", u.Name, u.Waiting)
		}
	}
	return plan.String(), strings.Join(w.trace, "\n") + "\n"
}

// addServer reads "c1/a incus os=1 staged=2 evacuated voter …": a server, in a cluster or not.
func addServer(t *testing.T, w *world, line string) {
	if line == "" {
		return
	}
	fields := strings.Fields(line)
	if fields[0] == "offer" { // offer testing 3 os incus
		w.offers[fields[1]] = map[string]string{}
		for _, component := range fields[3:] {
			w.offers[fields[1]][component] = fields[2]
		}
		return
	}
	if fields[0] == "at" { // the time it begins
		at, err := time.Parse(time.RFC3339, fields[1])
		require.NoError(t, err)
		w.now, w.begun = at, at
		return
	}
	if fields[0] == "delay" { // delay c1 10m: the post restore delay of a cluster
		d, err := time.ParseDuration(fields[2])
		require.NoError(t, err)
		w.records[fields[1]] = &rolling.Cluster{Name: fields[1], PostRestoreDelay: d}
		return
	}
	s := &rolling.Server{Name: fields[0], Properties: map[string]string{}}
	if cluster, name, ok := strings.Cut(fields[0], "/"); ok {
		s.Cluster, s.Name = cluster, name
	}
	w.add(s)
	s.Incus = fields[1] == "incus"
	s.Versions, s.Running = map[string]string{"os": "1", fields[1]: "1"}, "1"
	for _, word := range fields[2:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "os":
			s.Versions["os"], s.Running = value, value
		case "app":
			s.Versions[fields[1]] = value
		case "staged":
			s.Versions["os"], s.Staged, s.NeedsReboot = value, value, true
		case "needs-reboot":
			s.NeedsReboot = true
		case "keys":
			n, err := strconv.Atoi(value)
			require.NoError(t, err)
			s.SecureBootKeys = n
		case "evacuated":
			s.Evacuated = true
		case "plain":
			s.Plain = true
		case "skips":
			s.Skipped = value
		case "offline":
			w.offline(s)
		case "unknown":
			s.Versions, s.Running = nil, ""
		case "busy":
			s.Operation, s.Ready, s.Condition = &rolling.Operation{ID: "x", Action: lifecycle.Action(value)}, false, "ready ("+value+")"
		case "channel":
			s.Channel = value
		case "voter":
			s.RolesKnown, s.Voter = true, true
		case "spare":
			s.RolesKnown = true
		default:
			if name, action, ok := strings.Cut(key, ":"); ok && name == "real" { // longer than ever before
				d, err := time.ParseDuration(value)
				require.NoError(t, err)
				w.takes[s.Name+" "+action] = d
			} else if ok && name == "takes" {
				d, err := time.ParseDuration(value)
				require.NoError(t, err)
				if s.Took == nil {
					s.Took = map[lifecycle.Action]time.Duration{}
				}
				s.Took[lifecycle.Action(action)] = d
				w.takes[s.Name+" "+action] = d
			} else if ok && name == "fault" {
				w.faults[s.Name+" "+action] = append(w.faults[s.Name+" "+action], strings.Split(strings.ReplaceAll(value, "-", " "), ",")...)
			} else {
				s.Properties[key] = value
			}
		}
	}
}

func playEvent(t *testing.T, w *world, words []string) {
	w.log("event      %s", strings.Join(words, " "))
	var s *rolling.Server
	if len(words) > 1 {
		s = w.server(words[1])
	}
	switch words[0] {
	case "offline":
		w.offline(s)
	case "online":
		w.online(s)
	case "evacuate":
		s.Evacuated = true
	case "restore":
		s.Evacuated = false
	case "returns": // a server that did not come back in time, with a version
		w.online(s)
		s.Running, s.Staged, s.NeedsReboot, s.BootedAt = words[2], "", false, w.now
		s.Versions = map[string]string{"os": words[2], "incus": words[2]}
	case "remove":
		delete(w.servers, s.ID)
	case "leave":
		s.Cluster = ""
	case "rename":
		s.Name = words[2]
	case "begin": // an action that is not the rollout's
		s.Operation, s.Ready, s.Condition = &rolling.Operation{ID: "x", Action: lifecycle.Action(words[2])}, false, "ready ("+words[2]+")"
	case "end":
		s.Operation, s.Ready, s.Condition = nil, true, "ready"
	case "publish":
		w.offers["stable"] = map[string]string{"os": words[1], "incus": words[1]}
	case "pause":
		require.NoError(t, w.state.Pause("by an operator"))
	case "resume":
		require.NoError(t, w.resume())
	case "cancel":
		require.NoError(t, w.cancel(rolling.CancelMode(words[1])))
	case "restart": // of the controller
		w.epoch++
	case "gate":
		w.gate = strings.Join(words[1:], " ")
	case "hold":
		w.hold = strings.Join(words[1:], " ")
	default:
		require.Fail(t, "unknown event", fmt.Sprint(words))
	}
}
