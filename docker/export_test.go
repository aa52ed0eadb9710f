package docker

import "encoding/json"

// ReadEvent is changed.
func ReadEvent(text []byte, driver string) string { return changed(text, driver) }

// ReadContainer reads GET /containers/ID/json.
func ReadContainer(text []byte) EngineContainer {
	var c engineContainer
	if json.Unmarshal(text, &c) != nil {
		return EngineContainer{}
	}
	return c.read()
}

// ReadNetwork reads GET /networks/ID.
func ReadNetwork(text []byte) EngineNetwork {
	var n engineNetwork
	if json.Unmarshal(text, &n) != nil {
		return EngineNetwork{}
	}
	return n.read()
}
