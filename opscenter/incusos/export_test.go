package incusos

// ParseEvent reads a message of the stream of events.
var ParseEvent = parseEvent
