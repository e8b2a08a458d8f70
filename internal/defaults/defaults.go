// Package defaults gives options their defaults. Everywhere in this module the zero value of an
// option means its default, and a negative one, unless its doc says what that means, is a mistake.
package defaults

import (
	"fmt"
	"time"
)

// Option is one field of a struct of options.
type Option interface {
	fill(invalid error) error
}

type option[T int | int64 | time.Duration] struct {
	name  string
	value *T
	def   T
}

// Of names a field: a count, a size or a time.
func Of[T int | int64 | time.Duration](name string, value *T, def T) Option {
	return option[T]{name, value, def}
}

// Fill sets the options that are 0 to their defaults. It stops at the first that is negative, with an
// error that names it and wraps invalid.
func Fill(invalid error, options ...Option) error {
	for _, o := range options {
		if err := o.fill(invalid); err != nil {
			return err
		}
	}
	return nil
}

func (o option[T]) fill(invalid error) error {
	if *o.value < 0 {
		return fmt.Errorf("%s is %v, it must not be negative: %w", o.name, *o.value, invalid)
	}
	if *o.value == 0 {
		*o.value = o.def
	}
	return nil
}
