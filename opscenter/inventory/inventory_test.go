package inventory_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary run the servers of TestHostile in a process of their own.
func TestMain(m *testing.M) {
	if good, err := strconv.Atoi(os.Getenv(neighboursEnv)); err == nil {
		if err := neighbours(good, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
