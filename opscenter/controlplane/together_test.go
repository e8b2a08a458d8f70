package controlplane

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errBroken = errors.New("broken")

// obedient is a part that ends with its context.
func obedient(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("cut off: %w", ctx.Err())
}

// TestTogether: the first part that ends, in whatever way, ends the others, and nothing that went wrong is lost.
func TestTogether(t *testing.T) {
	good := part{"good", obedient}
	after := func(d time.Duration, err error) func(context.Context) error {
		return func(context.Context) error { time.Sleep(d); return err }
	}
	for name, c := range map[string]struct {
		parts []part
		limit time.Duration // of the caller's context
		took  time.Duration
		is    []error
		text  string
	}{
		"stop":                  {parts: []part{good, {"also", obedient}}, limit: time.Minute, took: time.Minute},
		"failure":               {parts: []part{good, {"bad", after(time.Second, errBroken)}}, took: time.Second, is: []error{errBroken}, text: "bad: broken"},
		"end":                   {parts: []part{good, {"idle", after(time.Second, nil)}}, took: time.Second, is: []error{ErrEnded}, text: "idle: has ended by itself"},
		"canceled by itself":    {parts: []part{good, {"odd", after(time.Second, context.Canceled)}}, took: time.Second, is: []error{context.Canceled}, text: "odd: context canceled"},
		"failure at the stop":   {parts: []part{good, {"bad", failing}}, limit: time.Minute, took: time.Minute, is: []error{errBroken}, text: "bad: broken"},
		"two failures":          {parts: []part{{"bad", failing}, {"first", after(time.Second, errBroken)}}, took: time.Second, is: []error{errBroken}, text: "first: broken\nbad: broken"},
		"one that does not end": {parts: []part{good, {"stuck", after(time.Hour, nil)}, {"slow", after(time.Hour, nil)}}, limit: time.Minute, took: time.Minute + 30*time.Second, is: []error{ErrStopTimeout}, text: "slow, stuck: has not ended in time: 30s"},
		"failure, and one that does not end": {parts: []part{{"bad", after(time.Second, errBroken)}, {"stuck", after(time.Hour, nil)}}, took: 31 * time.Second, is: []error{errBroken, ErrStopTimeout},
			text: "bad: broken\nstuck: has not ended in time: 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if c.limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.limit)
					defer cancel()
				}
				begun := time.Now()
				err := together(ctx, 30*time.Second, c.parts...)
				require.Equal(t, c.took, time.Since(begun))
				if c.text == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, c.text)
				}
				for _, is := range c.is {
					require.ErrorIs(t, err, is)
				}
				time.Sleep(2 * time.Hour) // the stuck ones end
			})
		})
	}
}

// failing is a part that ends with its context, and with an error that has nothing to do with that.
func failing(ctx context.Context) error {
	<-ctx.Done()
	return errors.Join(ctx.Err(), errBroken)
}
