package inventory_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

const (
	neighboursEnv = "OPSCENTER_NEIGHBOURS"
	costsEnv      = "OPSCENTER_COSTS"
	// touches is the interval between two changes of objects on the good servers.
	touches = 20 * time.Millisecond
)

// neighbour is a server in the other process.
type neighbour struct{ Name, URL, TrustToken string }

// neighbours runs the servers until in ends. Each line tells the first server an attack, or "go on". The other servers
// change their objects in turn, and write the time into them. Each answer is the number of changes so far.
func neighbours(good int, in io.Reader, out io.Writer) error {
	servers := make([]*incusostest.Server, good+1)
	list := make([]neighbour, len(servers))
	var group errgroup.Group
	group.SetLimit(4)
	for i := range servers {
		group.Go(func() (err error) {
			servers[i], err = incusostest.New(incusostest.Options{Name: fmt.Sprintf("sim%03d", i), Standalone: true, Seed: uint64(i + 1)})
			if err == nil {
				servers[i].Furnish(20)
				list[i] = neighbour{servers[i].Name(), servers[i].URL(), servers[i].TrustToken("control-plane")}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	answer := json.NewEncoder(out)
	if err := answer.Encode(list); err != nil {
		return err
	}
	var touched atomic.Int64
	go func() {
		for range time.Tick(touches) {
			servers[1+touched.Add(1)%int64(good)].Touch(strconv.FormatInt(time.Now().UnixNano(), 10))
		}
	}()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var ways []incusostest.Hostility
		if lines.Text() != "" && lines.Text() != "go on" {
			ways = append(ways, incusostest.Hostility(lines.Text()))
		}
		if lines.Text() != "go on" {
			if err := servers[0].SetHostile(ways...); err != nil {
				return err
			}
		}
		if err := answer.Encode(touched.Load()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// watched holds the measurements of a window of time.
type watched struct {
	took    time.Duration
	effect  bool          // the attack had its effect
	polls   int64         // successful polls of good servers
	touched int64         // changes on good servers
	changes int64         // changes that were seen in time
	slowest time.Duration // longest time until a change was seen
	memory  int           // highest resident memory, in bytes
}

// inTime bounds the time until a change must show.
const inTime = time.Second

// TestHostile lets one server attack in every way. Its cost is bounded, and the other servers are polled and followed
// as before. Set OPSCENTER_COSTS=1 to measure that for a minute, with a hundred servers, the default budgets, and no
// other program running. Otherwise ten servers and small budgets show that the budgets hold.
func TestHostile(t *testing.T) {
	measured := os.Getenv(costsEnv) != "" && !raceEnabled
	good, window, options := 10, 300*time.Millisecond, inventory.Options{MaxObjects: 200, MaxSize: 1 << 20}
	if measured {
		good, window, options = 100, 3*time.Second, inventory.Options{} // each server is polled three times, in its own phase
	}
	options.MaxBackoff, options.ScanTimeout = time.Second, 15*time.Second
	list, command := startNeighbours(t, good)
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	client := controltest.Client(t, incusos.Options{Certificate: &identity})
	registry, err := opscenter.NewRegistry(memstore.New(memstore.Options{}), opscenter.Options{})
	require.NoError(t, err)
	var polls, changes, slowest atomic.Int64
	hostile := list[0].Name
	polling, err := poller.New(registry, client, poller.Options{Interval: time.Second, FactsInterval: time.Second, OnPoll: func(o *lifecycle.Observation) {
		if o.Server != hostile && o.Failure == nil {
			polls.Add(1)
		}
	}})
	require.NoError(t, err)
	objects, err := inventory.New(registry, client, options)
	require.NoError(t, err)
	for _, s := range list {
		_, err := client.Adopt(t.Context(), registry, s.URL, s.TrustToken, incusos.AdoptOptions{Name: s.Name})
		require.NoError(t, err)
	}
	controltest.Background(t, polling.Run)
	controltest.Background(t, objects.Run)
	controltest.Background(t, func(ctx context.Context) error {
		for c, err := range objects.WatchChanges(ctx, 0) {
			if err != nil {
				return err
			}
			if c.Cluster == hostile || len(c.Fields) != 1 || c.Fields[0].Path != "description" {
				continue
			}
			var text string
			_ = json.Unmarshal(c.Fields[0].To, &text)
			if at, err := strconv.ParseInt(text, 10, 64); err == nil {
				took := time.Since(time.Unix(0, at))
				if took < inTime {
					changes.Add(1)
				}
				slowest.Store(max(slowest.Load(), int64(took)))
			}
		}
		return ctx.Err()
	})
	require.Eventually(t, func() bool {
		all, err := objects.Status(t.Context())
		require.NoError(t, err)
		n := 0
		for _, s := range all {
			if s.Following {
				n++
			}
		}
		return n == len(list)
	}, time.Minute, 100*time.Millisecond)
	watch := func(window time.Duration, effect func() bool) (out watched) {
		touched := command("go on")
		polls.Store(0)
		changes.Store(0)
		slowest.Store(0)
		begun := time.Now()
		for ; time.Since(begun) < window || time.Since(begun) < 20*time.Second && !effect(); time.Sleep(20 * time.Millisecond) {
			out.memory = max(out.memory, resident())
		}
		out.touched = command("go on") - touched
		out.took, out.effect = time.Since(begun), effect()
		out.polls, out.changes, out.slowest = polls.Load(), changes.Load(), time.Duration(slowest.Load())
		return out
	}
	warnings := func() map[warning.Kind]string {
		page, err := registry.Warnings().List(t.Context(), opscenter.WarningFilter{Server: hostile}, opscenter.Page{})
		require.NoError(t, err)
		out := map[warning.Kind]string{}
		for _, w := range page.Warnings {
			out[w.Kind] = w.Message
		}
		return out
	}
	// keptInMemory is the resident memory without garbage. It also grows with the changes on the good servers.
	keptInMemory := func() int {
		debug.FreeOSMemory()
		return resident()
	}
	first := keptInMemory()
	before := watch(window, func() bool { return true })
	t.Logf("%-26s %d polls, %d of %d changes seen, the slowest after %s, %d MiB", "no server is hostile:", before.polls, before.changes, before.touched, before.slowest.Round(time.Millisecond), before.memory>>20)
	kept := func() int {
		counts, err := objects.Count(t.Context(), inventory.Query{Cluster: hostile})
		require.NoError(t, err)
		return counts.Total
	}
	budget := options.MaxObjects
	if measured {
		budget = inventory.DefaultMaxObjects
		require.GreaterOrEqual(t, float64(before.polls), 0.95*float64(good)*before.took.Seconds())
		require.Greater(t, before.changes, int64(0.9*float64(before.touched)))
	}
	warned := map[warning.Kind]string{}
	for _, way := range incusostest.Hostilities {
		grown := keptInMemory() - first
		command(string(way))
		during := watch(window, func() bool {
			is := warnings()
			switch way {
			case incusostest.HostileNames, incusostest.HostileEvents, incusostest.HostileChurn:
				return true
			case incusostest.HostileFacts:
				return is[warning.Unreadable] != ""
			default:
				return is[warning.Inventory] != ""
			}
		})
		t.Logf("%-26s %s, %d polls, %d of %d changes seen, the slowest after %s, %+d MiB, and %d before", way+":", during.took.Round(100*time.Millisecond), during.polls, during.changes, during.touched, during.slowest.Round(time.Millisecond), (during.memory-before.memory-grown)>>20, grown>>20)
		assert.True(t, during.effect, way)
		assert.LessOrEqual(t, kept(), budget, way)
		if measured {
			assert.LessOrEqual(t, (during.memory-before.memory-grown)>>20, 64, way)
			assert.GreaterOrEqual(t, float64(during.polls), 0.95*float64(good)*during.took.Truncate(time.Second).Seconds(), way)
			assert.GreaterOrEqual(t, float64(during.changes), 0.95*float64(during.touched)*min(1, float64(before.changes)/float64(before.touched)), way)
		}
		maps.Copy(warned, warnings())
		command("")
		require.Eventually(t, func() bool { return len(warnings()) == 0 }, 30*time.Second, 50*time.Millisecond, "the warnings end with the attack")
	}
	if measured {
		assert.LessOrEqual(t, (keptInMemory()-first)>>20, 64, "memory that all attacks together leave")
	}
	require.Contains(t, warned[warning.Inventory], fmt.Sprintf("inventory truncated at %d objects", budget))
	require.Contains(t, warned, warning.Unreadable, "facts that are too large")
}

// resident returns the resident memory of the process, in bytes. 0: the system does not report it.
func resident() int {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	var n int
	_, _ = fmt.Sscan(rest, &n)
	return n << 10
}

func startNeighbours(t *testing.T, good int) ([]neighbour, func(string) int64) {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	process := exec.Command(program)
	process.Env = append(os.Environ(), fmt.Sprintf("%s=%d", neighboursEnv, good))
	process.Stderr = os.Stderr
	in, err := process.StdinPipe()
	require.NoError(t, err)
	out, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	t.Cleanup(sync.OnceFunc(func() {
		in.Close()
		timer := time.AfterFunc(10*time.Second, func() { _ = process.Process.Kill() })
		defer timer.Stop()
		_ = process.Wait()
	}))
	answers := json.NewDecoder(out)
	var list []neighbour
	require.NoError(t, answers.Decode(&list))
	return list, func(line string) (touched int64) {
		fmt.Fprintln(in, line)
		require.NoError(t, answers.Decode(&touched))
		return touched
	}
}
