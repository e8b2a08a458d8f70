package opscenter_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/storage/memstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

// judged is a world whose registrations are judged.
func judged(t *testing.T, admit func(context.Context, opscenter.Candidate) (opscenter.Decision, error)) *world {
	return newWorld(t, storetest.Twice(memstore.New(memstore.Options{DetectMutation: true})), opscenter.Options{Admit: admit, AdmitTimeout: 50 * time.Millisecond})
}

// TestAdmit: a decision about a registration is stored together with the registration, or neither is.
func TestAdmit(t *testing.T) {
	var asked []opscenter.Candidate
	decide := opscenter.Decision{}
	w := judged(t, func(_ context.Context, c opscenter.Candidate) (opscenter.Decision, error) {
		asked = append(asked, c)
		return decide, nil
	})
	require.NoError(t, w.Channels().Create(t.Context(), "testing", ""))
	_, err := w.CreateCluster(t.Context(), "cluster1", opscenter.ClusterSpec{Channel: "testing"})
	require.NoError(t, err)
	token := w.token(t, 10)
	// The zero decision is what the token alone does.
	_, err = w.Register(t.Context(), registration(0, token))
	require.NoError(t, err)
	require.Len(t, asked, 1)
	require.Equal(t, "server00", asked[0].Name)
	require.Empty(t, asked[0].Token, "a judge gets no secret")
	require.Empty(t, asked[0].Admitting.UUID)
	require.EqualValues(t, 10, asked[0].Admitting.UsesRemaining)
	require.Nil(t, asked[0].Known)
	// A server that registers again was judged already.
	again, err := w.Register(t.Context(), registration(0, token))
	require.NoError(t, err)
	require.True(t, again.Repeat)
	require.Len(t, asked, 1)
	// All that can be decided.
	decide = opscenter.Decision{Name: "rack1-01", Channel: "stable", Properties: map[string]string{"rack": "1"}, Cluster: "cluster1"}
	reg := registration(1, token)
	reg.Properties = map[string]string{"rack": "0", "site": "a"}
	answer, err := w.Register(t.Context(), reg)
	require.NoError(t, err)
	require.Equal(t, "rack1-01", answer.Name)
	info := w.get(t, "rack1-01")
	require.Equal(t, map[string]string{"rack": "1", "site": "a"}, info.Properties)
	require.Equal(t, "cluster1", info.Cluster)
	require.Equal(t, "testing", info.Channel, "that of the cluster")
	require.Len(t, w.events(t, event.ClusterMemberAdded), 1)
	// A server that is installed anew keeps its name, and is judged as what it is.
	require.NoError(t, w.AllowReinstall(t.Context(), "server00", true))
	decide = opscenter.Decision{Name: "other", Properties: map[string]string{"rack": "2"}, Channel: "testing"}
	reg = registration(0, token)
	reg.Certificate = certificate(20)
	answer, err = w.Register(t.Context(), reg)
	require.NoError(t, err)
	require.Equal(t, "server00", answer.Name)
	require.Equal(t, "server00", asked[len(asked)-1].Known.Name)
	info = w.get(t, "server00")
	require.Equal(t, map[string]string{"rack": "2"}, info.Properties)
	require.Equal(t, "testing", info.Channel)
	// A registration that no token admits is not judged.
	before := len(asked)
	for _, c := range []struct {
		change func(*opscenter.Registration)
		want   error
	}{{func(r *opscenter.Registration) { r.Token = "00000000-0000-4000-8000-000000000000" }, opscenter.ErrTokenUnknown},
		{func(r *opscenter.Registration) { r.Certificate = certificate(30); r.MachineID = machineID(0) }, opscenter.ErrIdentityTaken}} {
		reg := registration(3, token)
		c.change(&reg)
		_, err := w.Register(t.Context(), reg)
		require.ErrorIs(t, err, c.want)
	}
	require.Len(t, asked, before)
	requireNoSecret(t, fmt.Sprintf("%+v", asked), token)
}

// TestNotAdmitted: whatever goes wrong, the server is refused, nothing changes, and an event says why.
func TestNotAdmitted(t *testing.T) {
	for name, c := range map[string]struct {
		admit func(ctx context.Context) (opscenter.Decision, error)
		said  string // in the event
		told  bool   // to the server, too
	}{
		"refused": {admit: func(context.Context) (opscenter.Decision, error) {
			return opscenter.Decision{Refuse: "not in the inventory"}, nil
		}, said: "not in the inventory", told: true},
		"fails": {admit: func(context.Context) (opscenter.Decision, error) {
			return opscenter.Decision{}, errors.New("db01 is down")
		}, said: "db01 is down"},
		"panics": {admit: func(context.Context) (opscenter.Decision, error) { panic("hunter2") }, said: "Options.Admit panicked"},
		"does not end": {admit: func(context.Context) (opscenter.Decision, error) {
			time.Sleep(time.Second)
			return opscenter.Decision{}, nil
		}, said: "not judged within 50ms"},
		"ends when told": {admit: func(ctx context.Context) (opscenter.Decision, error) {
			<-ctx.Done()
			return opscenter.Decision{}, ctx.Err()
		}, said: "deadline"},
		"no such name":    {admit: func(context.Context) (opscenter.Decision, error) { return opscenter.Decision{Name: "a/b"}, nil }, said: "invalid name"},
		"name is taken":   {admit: func(context.Context) (opscenter.Decision, error) { return opscenter.Decision{Name: "server09"}, nil }, said: "is taken"},
		"no such channel": {admit: func(context.Context) (opscenter.Decision, error) { return opscenter.Decision{Channel: "x"}, nil }, said: "channel"},
		"no such cluster": {admit: func(context.Context) (opscenter.Decision, error) { return opscenter.Decision{Cluster: "x"}, nil }, said: "cluster"},
		"too many properties": {admit: func(context.Context) (opscenter.Decision, error) {
			many := map[string]string{}
			for i := range opscenter.MaxProperties + 1 {
				many[fmt.Sprint(i)] = ""
			}
			return opscenter.Decision{Properties: many}, nil
		}, said: "properties"},
	} {
		t.Run(name, func(t *testing.T) {
			w := judged(t, func(ctx context.Context, candidate opscenter.Candidate) (opscenter.Decision, error) {
				if candidate.Name == "server09" {
					return opscenter.Decision{}, nil
				}
				return c.admit(ctx)
			})
			token := w.token(t, 5)
			_, err := w.Register(t.Context(), registration(9, token))
			require.NoError(t, err)
			begun := time.Now()
			_, err = w.Register(t.Context(), registration(0, token))
			require.ErrorIs(t, err, opscenter.ErrNotAdmitted)
			require.Less(t, time.Since(begun), 30*time.Second)
			if c.told {
				require.ErrorContains(t, err, c.said)
			} else {
				require.EqualError(t, err, opscenter.ErrNotAdmitted.Error(), "what went wrong is for the operator")
			}
			require.EqualValues(t, 4, w.uses(t, token), "a refusal spends nothing")
			_, err = w.Server(t.Context(), "server00")
			require.ErrorIs(t, err, opscenter.ErrNotFound)
			refused := w.events(t, event.RegistrationRefused)
			require.Len(t, refused, 1)
			require.Contains(t, refused[0].Reason, c.said)
			requireNoSecret(t, refused[0].Reason, token)
			require.NotContains(t, refused[0].Reason, "hunter2")
		})
	}
}

// TestJudgedAnew: a registration that became another while it was judged is judged as what it is.
func TestJudgedAnew(t *testing.T) {
	var w *world
	var known []bool
	w = judged(t, func(ctx context.Context, c opscenter.Candidate) (opscenter.Decision, error) {
		known = append(known, c.Known != nil)
		if len(known) == 1 { // an operator announces it meanwhile
			_, err := w.PreRegister(ctx, opscenter.PreRegistration{Name: "announced", SystemUUID: c.SystemUUID})
			return opscenter.Decision{Name: "judged"}, err
		}
		return opscenter.Decision{Properties: map[string]string{"judged": "anew"}}, nil
	})
	answer, err := w.Register(t.Context(), registration(0, w.token(t, 1)))
	require.NoError(t, err)
	require.Equal(t, "announced", answer.Name)
	require.Equal(t, []bool{false, true}, known)
	require.Equal(t, map[string]string{"judged": "anew"}, w.get(t, "announced").Properties)
}

// TestAdmissionsAreBounded: judges that do not end take no more than so many places, and give them back.
func TestAdmissionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		store := memstore.New()
		defer store.Close()
		registry, err := opscenter.NewRegistry(store, opscenter.Options{Admit: func(context.Context, opscenter.Candidate) (opscenter.Decision, error) {
			<-release
			return opscenter.Decision{}, nil
		}})
		require.NoError(t, err)
		token, err := registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 100})
		require.NoError(t, err)
		outcomes := map[error]int{}
		var mu sync.Mutex
		var wait sync.WaitGroup
		for i := range 70 {
			wait.Go(func() {
				_, err := registry.Register(t.Context(), registration(i, token.UUID))
				mu.Lock()
				defer mu.Unlock()
				for _, kind := range []error{opscenter.ErrTooOften, opscenter.ErrNotAdmitted} {
					if errors.Is(err, kind) {
						outcomes[kind]++
					}
				}
			})
		}
		wait.Wait() // after AdmitTimeout
		require.Equal(t, map[error]int{opscenter.ErrTooOften: 6, opscenter.ErrNotAdmitted: 64}, outcomes)
		_, err = registry.Register(t.Context(), registration(0, token.UUID))
		require.ErrorIs(t, err, opscenter.ErrTooOften, "they have not ended")
		close(release)
		synctest.Wait()
		_, err = registry.Register(t.Context(), registration(0, token.UUID))
		require.NoError(t, err)
	})
}

// TestJudgedByTheNameItGave: a server that was announced by its name alone is that server, whatever name is decided.
func TestJudgedByTheNameItGave(t *testing.T) {
	w := judged(t, func(_ context.Context, c opscenter.Candidate) (opscenter.Decision, error) {
		return opscenter.Decision{Name: "rack1-01"}, nil
	})
	_, err := w.PreRegister(t.Context(), opscenter.PreRegistration{Name: "server00"})
	require.NoError(t, err)
	answer, err := w.Register(t.Context(), registration(0, w.token(t, 1)))
	require.NoError(t, err)
	require.Equal(t, "server00", answer.Name)
	// A caller that hangs up is no judge that is slow.
	ctx, stop := context.WithCancel(t.Context())
	waiting := judged(t, func(ctx context.Context, _ opscenter.Candidate) (opscenter.Decision, error) {
		stop()
		<-ctx.Done()
		time.Sleep(10 * time.Millisecond) // so that the other end is seen first
		return opscenter.Decision{}, ctx.Err()
	})
	_, err = waiting.Register(ctx, registration(0, waiting.token(t, 1)))
	require.ErrorIs(t, err, opscenter.ErrNotAdmitted)
	require.Contains(t, waiting.events(t, event.RegistrationRefused)[0].Reason, "the request ended before the registration was judged")
}

// TestJudgedWhenItTells: a server that hides its IDs until it has registered is judged when it tells them.
func TestJudgedWhenItTells(t *testing.T) {
	var asked []bool
	w := judged(t, func(_ context.Context, c opscenter.Candidate) (opscenter.Decision, error) {
		asked = append(asked, c.Again)
		if c.MachineID == machineID(7) {
			return opscenter.Decision{Refuse: "that machine is another's"}, nil
		}
		return opscenter.Decision{Name: "judged"}, nil
	})
	token := w.token(t, 1)
	hiding := registration(0, token)
	hiding.SystemUUID, hiding.MachineID = "", ""
	answer, err := w.Register(t.Context(), hiding)
	require.NoError(t, err)
	require.Equal(t, "judged", answer.Name)
	told := hiding
	told.MachineID = machineID(7)
	_, err = w.Register(t.Context(), told)
	require.ErrorIs(t, err, opscenter.ErrNotAdmitted)
	require.Empty(t, w.get(t, "judged").MachineID)
	told.MachineID = machineID(0)
	answer, err = w.Register(t.Context(), told)
	require.NoError(t, err)
	require.True(t, answer.Repeat)
	require.Equal(t, "judged", answer.Name)
	require.Equal(t, machineID(0), w.get(t, "judged").MachineID)
	_, err = w.Register(t.Context(), told)
	require.NoError(t, err)
	require.Equal(t, []bool{false, true, true}, asked, "and not once more")
}
