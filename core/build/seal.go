package build

import (
	"bytes"
	"encoding/json"
	"os"
)

// recordSuffix is that of the cache's records: a line with a digest over what the record is of (its key) and all that follows,
// which is JSON. A record that was altered, or that lies where another one should, is none.
const recordSuffix = ".record"

// writeSealed writes the record of a key.
func writeSealed(path, key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, append([]byte(digest(key, string(text))+"\n"), text...))
}

// readSealed reads the record of a key into v, and says whether there is one.
func readSealed(path, key string, v any) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	seal, text, ok := bytes.Cut(b, []byte("\n"))
	return ok && string(seal) == digest(key, string(text)) && json.Unmarshal(text, v) == nil
}
