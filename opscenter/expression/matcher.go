package expression

import (
	"errors"
	"fmt"
)

// Matcher applies an expression to a list of objects that need not all have what it is about:
// an object for which it can't be evaluated does not match. Only if there is none for which it
// can be, it is the expression that is wrong.
type Matcher struct {
	*Evaluator
	evaluated int
	first     error
}

// Matcher returns a new one.
func (p *Program) Matcher() *Matcher { return &Matcher{Evaluator: p.Evaluator()} }

// Matches reports whether the expression is true of what was set.
func (m *Matcher) Matches() bool {
	if m.Spent() {
		return false
	}
	ok, err := m.Match()
	if err != nil {
		if m.first == nil {
			m.first = err
		}
		return false
	}
	m.evaluated++
	return ok
}

// Spent reports whether MaxTotalTime is over: nothing matches any more, and Err says so.
func (m *Matcher) Spent() bool { return m.total > maxTotalTime }

var maxTotalTime = MaxTotalTime // less in tests

// Err returns why the expression could be evaluated for no object, an ErrInvalid; nil if
// it could for one, or there was none.
func (m *Matcher) Err() error {
	if m.Spent() {
		return fmt.Errorf("%w: it took longer than %s for all that was looked at", ErrInvalid, maxTotalTime)
	}
	if m.first == nil || m.evaluated > 0 {
		return nil
	}
	if errors.Is(m.first, ErrInvalid) {
		return m.first
	}
	return fmt.Errorf("%w: %w", ErrInvalid, m.first)
}

// Merge takes in what another Matcher of the same program has seen.
func (m *Matcher) Merge(other *Matcher) {
	m.evaluated += other.evaluated
	m.total = max(m.total, other.total)
	if m.first == nil {
		m.first = other.first
	}
}
