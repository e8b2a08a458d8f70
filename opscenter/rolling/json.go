package rolling

import (
	"encoding/json"
	"fmt"
	"time"
)

// jsonDuration is a duration that JSON has as a text, as "15m".
type jsonDuration time.Duration

func (d jsonDuration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *jsonDuration) UnmarshalText(data []byte) error {
	parsed, err := time.ParseDuration(string(data))
	if err != nil {
		return fmt.Errorf("%w: duration %.40q: a duration such as 15m is wanted", ErrInvalid, data)
	}
	*d = jsonDuration(parsed)
	return nil
}

type plainPolicy Policy

// policyJSON is a Policy whose durations are texts: its own fields hide those of plainPolicy.
type policyJSON struct {
	plainPolicy
	Soak             jsonDuration `json:"soak,omitempty"`
	PostRestoreDelay jsonDuration `json:"post_restore_delay,omitempty"`
	StepTimeout      jsonDuration `json:"step_timeout,omitempty"`
	RebootTimeout    jsonDuration `json:"reboot_timeout,omitempty"`
	Backoff          jsonDuration `json:"backoff,omitempty"`
	GateTimeout      jsonDuration `json:"gate_timeout,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (p Policy) MarshalJSON() ([]byte, error) {
	return json.Marshal(policyJSON{plainPolicy(p), jsonDuration(p.Soak), jsonDuration(p.PostRestoreDelay), jsonDuration(p.StepTimeout), jsonDuration(p.RebootTimeout), jsonDuration(p.Backoff), jsonDuration(p.GateTimeout)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *Policy) UnmarshalJSON(data []byte) error {
	var in policyJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*p = Policy(in.plainPolicy)
	p.Soak, p.PostRestoreDelay, p.StepTimeout = time.Duration(in.Soak), time.Duration(in.PostRestoreDelay), time.Duration(in.StepTimeout)
	p.RebootTimeout, p.Backoff, p.GateTimeout = time.Duration(in.RebootTimeout), time.Duration(in.Backoff), time.Duration(in.GateTimeout)
	return nil
}

type plainWave Wave

type waveJSON struct {
	plainWave
	Soak jsonDuration `json:"soak,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (w Wave) MarshalJSON() ([]byte, error) {
	return json.Marshal(waveJSON{plainWave(w), jsonDuration(w.Soak)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (w *Wave) UnmarshalJSON(data []byte) error {
	var in waveJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*w = Wave(in.plainWave)
	w.Soak = time.Duration(in.Soak)
	return nil
}
