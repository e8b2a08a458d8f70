package httpapi

// StatusOf returns the HTTP status of an error.
var StatusOf = statusOf

// PlainPath is the path on a server that a forwarded one leads to.
var PlainPath = plainPath

// ConfigMap reads the properties in a body.
func ConfigMap(data []byte) (map[string]string, error) {
	var out configMap
	err := out.UnmarshalJSON(data)
	return out, err
}

// ServerDocument is the document of a server.
type ServerDocument = server
