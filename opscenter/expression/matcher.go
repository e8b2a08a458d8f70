package expression

import (
	"errors"
	"fmt"
)

// Matcher applies an expression to a list of different objects. An object for which the expression can't be evaluated does not
// match. If the expression can be evaluated for no object at all, Err returns an error. A Matcher must not be used
// concurrently.
type Matcher struct {
	*Evaluator
	evaluated int
	first     error
}

// Matcher returns a new Matcher for the program.
func (p *Program) Matcher() *Matcher { return &Matcher{Evaluator: p.Evaluator()} }

// Matches reports whether the expression is true for the values that were set.
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

// Spent reports whether MaxTotalTime is used up. After that nothing matches, and Err returns an error.
func (m *Matcher) Spent() bool { return m.total > maxTotalTime }

var maxTotalTime = MaxTotalTime // shorter in tests

// Err returns an ErrInvalid if MaxTotalTime is used up, or if the expression could be evaluated for no object. It returns nil if
// there was no object.
func (m *Matcher) Err() error {
	if m.Spent() {
		return fmt.Errorf("%w: it took longer than %s for all objects", ErrInvalid, maxTotalTime)
	}
	if m.first == nil || m.evaluated > 0 {
		return nil
	}
	if errors.Is(m.first, ErrInvalid) {
		return m.first
	}
	return fmt.Errorf("%w: %w", ErrInvalid, m.first)
}

// Merge adds the results of another Matcher of the same program. The two may have run concurrently.
func (m *Matcher) Merge(other *Matcher) {
	m.evaluated += other.evaluated
	m.total = max(m.total, other.total)
	if m.first == nil {
		m.first = other.first
	}
}
