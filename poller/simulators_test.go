package poller_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

// The benchmarks poll simulated servers that run in another process. That process is this test
// binary, started a second time with the variable OPSCENTER_SIMULATORS.

const simulatorsEnv = "OPSCENTER_SIMULATORS"

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(simulatorsEnv)); err == nil {
		if err := simulate(n, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// simulated describes a server of the other process.
type simulated struct {
	Name, URL, Certificate string
}

// simulate runs n servers until in ends. The first line of in is the certificate to trust. Each
// further line is the number of servers that stay silent from then on.
func simulate(n int, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return lines.Err()
	}
	var text string
	if err := json.Unmarshal(lines.Bytes(), &text); err != nil {
		return err
	}
	trusted, err := opscenter.ParseCertificate(text)
	if err != nil {
		return err
	}
	servers := make([]*incusostest.Server, n)
	var group errgroup.Group
	group.SetLimit(4)
	for i := range servers {
		group.Go(func() (err error) {
			servers[i], err = incusostest.New(incusostest.Options{Name: fmt.Sprintf("sim%05d", i), Seed: uint64(i + 1)})
			if err == nil {
				servers[i].Trust(trusted)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	list := make([]simulated, n)
	for i, s := range servers {
		list[i] = simulated{s.Name(), s.URL(), s.CertificatePEM()}
	}
	answer := json.NewEncoder(out)
	if err := answer.Encode(list); err != nil {
		return err
	}
	faults := make([]incusostest.Fault, n)
	for lines.Scan() {
		silent, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		for i, s := range servers {
			fault := incusostest.Fault{}
			if silent > 0 && i%(n/silent) == 0 {
				fault.Kind = incusostest.FaultSilent
			}
			if fault == faults[i] {
				continue // a fault closes connections
			}
			faults[i] = fault
			if err := s.SetFault(fault); err != nil {
				return err
			}
		}
		if err := answer.Encode(silent); err != nil {
			return err
		}
	}
	return lines.Err()
}

// simulators are the servers of the other process.
type simulators struct {
	b       testing.TB
	servers []simulated
	in      io.WriteCloser
	out     *json.Decoder
	stop    func()
}

// startSimulators starts a process with n servers that trust a certificate.
func startSimulators(b testing.TB, n int, trust string) *simulators {
	b.Helper()
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	command := exec.Command(program)
	command.Env = append(os.Environ(), fmt.Sprintf("%s=%d", simulatorsEnv, n))
	var stderr strings.Builder
	command.Stderr = &stderr
	in, err := command.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	s := &simulators{b: b, in: in, out: json.NewDecoder(out)}
	s.stop = sync.OnceFunc(func() {
		in.Close()
		timer := time.AfterFunc(10*time.Second, func() { _ = command.Process.Kill() })
		defer timer.Stop()
		_ = command.Wait()
	})
	b.Cleanup(s.stop)
	if err := json.NewEncoder(in).Encode(trust); err != nil {
		b.Fatal(err)
	}
	if err := s.out.Decode(&s.servers); err != nil {
		s.stop()
		b.Fatal(err, stderr.String())
	}
	return s
}

// silence makes n of the servers accept connections without answering.
func (s *simulators) silence(n int) {
	s.b.Helper()
	fmt.Fprintln(s.in, n)
	var done int
	if err := s.out.Decode(&done); err != nil || done != n {
		s.b.Fatal(done, err)
	}
}
