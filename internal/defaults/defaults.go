// Package defaults sets the defaults of options. In this module the zero value of an option means its default. A negative value
// is an error, unless the doc comment of the option defines it.
package defaults

import (
	"fmt"
	"time"
)

// Option is one field of a struct of options.
type Option interface {
	fill(invalid error) error
}

// option implements Option.
type option[T int | int64 | time.Duration] struct {
	name  string
	value *T
	def   T
}

// Of returns the Option for a field: its name, its address and its default.
func Of[T int | int64 | time.Duration](name string, value *T, def T) Option {
	return option[T]{name, value, def}
}

// Fill sets each option with the value 0 to its default. It stops at the first negative option, with an error that names the
// option and wraps invalid.
func Fill(invalid error, options ...Option) error {
	for _, o := range options {
		if err := o.fill(invalid); err != nil {
			return err
		}
	}
	return nil
}

// fill sets the default, or returns an error for a negative value.
func (o option[T]) fill(invalid error) error {
	if *o.value < 0 {
		return fmt.Errorf("%s is %v, it must not be negative: %w", o.name, *o.value, invalid)
	}
	if *o.value == 0 {
		*o.value = o.def
	}
	return nil
}
