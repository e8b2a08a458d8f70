// Package lifecycle has the rules for one server: its status, how polls, self updates and actions change it, and the action
// that is recommended next. Everything in it is a value or a pure function. Package opscenter loads a [ServerState], calls one
// of the functions, and stores the result:
//
//   - [Apply] takes the [Observation] of a poll.
//   - [Tell] takes a self update, by which a server tells of itself.
//   - [Begin] and [End] take an action, [MarkLost] a server that was not found.
//   - [Recommend] and [ServerState.Recommend] return the recommended action.
//
// The outcome of the first three is a [Transition]: the next state, and the events and warnings that come with it. These
// functions do not change the state that they are given. Events and warnings are values of packages event and warning, which
// stand below: so no kind is named twice. Begin completes the [Operation] that it is given. Functions can be
// called concurrently.
//
// # How the status of a server begins
//
// Package opscenter gives a server its first status:
//
//   - Registry.PreRegister makes a server that is unregistered.
//   - Registry.Register and Registry.Adopt make a server that is pending (registering). Registry.Register does so, too, with a
//     pre-registered server, and with a known server that was installed anew, whatever its status.
//
// # How the status of a server changes
//
// The table shows all other changes. A test compares it with the functions. "answers" and "fails" are polls, that is
// observations for Apply:
//
//   - A server that "answers ready" says that it is ready, one that "is booting" says that it is not.
//   - It "was down" if it has booted since its [Announcement], or if a poll has failed since.
//   - It was "announced by itself" if no action took the server down (Announcement.Unasked).
//   - The "deadline" is that of its Announcement. Without one, a server has [Policy].RebootTimeout to go down.
//   - An "action under way" is an [Operation] in the state. With "nothing under way" it has ended: by this poll, at its
//     deadline, or before.
//   - It is "in maintenance" if its Incus cluster says that it is being evacuated or restored.
//   - It is "flapping" if it has become unresponsive too often: see Policy.FlapThreshold.
//
// "any" stands for all places in the table, "any ready" for the status ready with every detail and without one. Only a forced
// action begins on a server that is not ready. The functions treat an unregistered server as every other one. But package
// poller does not poll it, and the Registry refuses its self updates and all actions on it.
//
//	on                                       from                                  to
//	answers ready                            unregistered                          ready
//	answers ready                            any pending                           ready
//	answers ready                            any offline                           ready
//	answers ready, was down                  any offline                           ready
//	answers ready, announced by itself       offline (shut down, unresponsive)     ready
//	answers ready, deadline passed           any offline                           ready
//	answers ready, nothing under way         any ready                             ready
//	answers ready, action under way          any offline                           ready (updating)
//	answers ready, action under way          any offline                           ready (updating application)
//	answers ready, action under way          any offline                           ready (evacuating)
//	answers ready, action under way          any offline                           ready (restoring)
//	answers ready, action under way          any offline                           ready (rebooting)
//	answers ready, action under way          any offline                           ready (shut down)
//	answers ready, in maintenance            any                                   ready (evacuating)
//	answers ready, in maintenance            any                                   ready (restoring)
//	answers ready, flapping                  any offline                           offline (unresponsive)
//	answers, is booting                      any ready                             offline (rebooting)
//	answers, is booting, deadline passed     any ready                             offline (unresponsive)
//	answers, is booting, deadline passed     any offline                           offline (unresponsive)
//	fails OfflineThreshold times             any pending                           offline (unresponsive)
//	fails OfflineThreshold times             any ready                             offline (unresponsive)
//	fails OfflineThreshold times, announced  any ready                             offline (shut down)
//	fails OfflineThreshold times, announced  offline (unresponsive)                offline (shut down)
//	fails, deadline passed                   any ready but (rebooting, shut down)  offline (unresponsive)
//	fails, deadline passed                   any offline                           offline (unresponsive)
//	self update: reboot                      any                                   offline (rebooting)
//	self update: shutdown, suspend           any                                   offline (shut down)
//	Begin update                             any                                   ready (updating)
//	Begin update of applications             any                                   ready (updating application)
//	Begin evacuate                           any                                   ready (evacuating)
//	Begin restore                            any                                   ready (restoring)
//	Begin reboot                             any                                   offline (rebooting)
//	Begin poweroff                           any                                   offline (shut down)
//	Begin suspend                            any                                   offline (shut down)
//	Begin reconfigure                        any                                   pending (re-configuring)
//	Begin factory-reset                      any                                   pending (registering)
//	End, success                             pending (re-configuring)              ready
//	End, success                             ready (evacuating, restoring)         ready
//	End, failure                             any pending                           ready
//	End, failure                             any ready                             ready
//	End, failure                             offline (rebooting, shut down)        ready
//	End, failure                             any pending                           the status before Begin
//	End, failure                             ready with a detail                   the status before Begin
//	End, failure                             offline (rebooting, shut down)        the status before Begin
//	MarkLost                                 any                                   offline (unresponsive)
//
// An input that is not in the table leaves the status as it is: a first failed poll, for example, or a poll that fails while
// Policy.FleetUnreachable or Policy.FleetInDoubt is set.
package lifecycle
