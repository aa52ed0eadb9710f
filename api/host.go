package api

// Host is a machine that networks of global scope are shared with. Without a cluster store there is one: where the daemon runs.
type Host struct {
	ID      string
	Name    string
	Address string // where its tunnels end; "": it has none
	State   string // StateReady
}

// Version says what answers.
type Version struct {
	Version       string
	APIVersion    string `json:"ApiVersion"`
	GoVersion     string
	Os, Arch      string
	KernelVersion string
}

// APIVersion is the version of the API that this package speaks: the prefix of every path.
const APIVersion = "v1"
