package rolling

import (
	"encoding/json"
	"fmt"
	"time"
)

// In JSON durations are texts, as "15m".

// text is a duration as it is written.
type text time.Duration

func (t text) MarshalText() ([]byte, error) { return []byte(time.Duration(t).String()), nil }

func (t *text) UnmarshalText(data []byte) error {
	d, err := time.ParseDuration(string(data))
	if err != nil {
		return fmt.Errorf("%w: duration %.40q, wanted is one as 15m", ErrInvalid, data)
	}
	*t = text(d)
	return nil
}

type plainPolicy Policy

// policyJSON has the durations of a Policy in front of the plain ones.
type policyJSON struct {
	plainPolicy
	Soak             text `json:"soak,omitempty"`
	PostRestoreDelay text `json:"post_restore_delay,omitempty"`
	StepTimeout      text `json:"step_timeout,omitempty"`
	RebootTimeout    text `json:"reboot_timeout,omitempty"`
	Backoff          text `json:"backoff,omitempty"`
	GateTimeout      text `json:"gate_timeout,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (p Policy) MarshalJSON() ([]byte, error) {
	return json.Marshal(policyJSON{plainPolicy(p), text(p.Soak), text(p.PostRestoreDelay), text(p.StepTimeout), text(p.RebootTimeout), text(p.Backoff), text(p.GateTimeout)})
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
	Soak text `json:"soak,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (w Wave) MarshalJSON() ([]byte, error) {
	return json.Marshal(waveJSON{plainWave(w), text(w.Soak)})
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
