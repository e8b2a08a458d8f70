package opscenter

import "time"

// A handle groups the methods of one feature that only some programs need. It is a value, and costs nothing to get:
//
//	registry.Channels().Publish(ctx, "stable", "202610150000", "os", "incus")

// Observer records the results of polls, and tells which servers to poll. Package poller uses it. A program with its own
// poller uses it, too. All methods may be called concurrently.
type Observer struct{ registry *Registry }

// Observer returns the Registry's handle for polls.
func (r *Registry) Observer() Observer { return Observer{r} }

// Now is the time of the Registry's clock, as times are stored: in UTC, without a monotonic reading. All stored times are of
// this clock. In a transaction, use Tx.Now.
func (h Observer) Now() time.Time { return h.registry.now() }

// Warnings raises, lists and clears warnings. All methods may be called concurrently.
type Warnings struct{ registry *Registry }

// Warnings returns the Registry's handle for warnings.
func (r *Registry) Warnings() Warnings { return Warnings{r} }

// Channels keeps the channels that servers follow for updates. All methods may be called concurrently.
type Channels struct{ registry *Registry }

// Channels returns the Registry's handle for channels.
func (r *Registry) Channels() Channels { return Channels{r} }

// TokenSeeds keeps the installation seeds of tokens, and the images prepared with them. All methods may be called
// concurrently.
type TokenSeeds struct{ registry *Registry }

// TokenSeeds returns the Registry's handle for the seeds of tokens.
func (r *Registry) TokenSeeds() TokenSeeds { return TokenSeeds{r} }
