package opscenter

// The Registry has many features. Those that only some programs need are behind a handle each, which costs nothing to get:
//
//	registry.Channels().Publish(ctx, "stable", "202610150000", "os", "incus")

// Observer takes in the results of polls, and tells whom to poll. Package poller uses it. So does a program that polls
// servers in a way of its own. All methods may be called concurrently.
type Observer struct{ registry *Registry }

// Observer returns the Registry's handle for polls.
func (r *Registry) Observer() Observer { return Observer{r} }

// Warnings raises, lists and clears warnings. All methods may be called concurrently.
type Warnings struct{ registry *Registry }

// Warnings returns the Registry's handle for warnings.
func (r *Registry) Warnings() Warnings { return Warnings{r} }

// Channels keeps the channels that servers follow for updates. All methods may be called concurrently.
type Channels struct{ registry *Registry }

// Channels returns the Registry's handle for channels.
func (r *Registry) Channels() Channels { return Channels{r} }

// TokenSeeds keeps the installation seeds of tokens, and the images that are prepared with them. All methods may be called
// concurrently.
type TokenSeeds struct{ registry *Registry }

// TokenSeeds returns the Registry's handle for the seeds of tokens.
func (r *Registry) TokenSeeds() TokenSeeds { return TokenSeeds{r} }
