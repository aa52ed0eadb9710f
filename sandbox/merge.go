package sandbox

// Merged is a sandbox's whole content and which endpoint is its gateway, by family.
type Merged struct {
	Config             Config
	Gateway4, Gateway6 string            // keys of Merge's argument; "" none
	Names              map[string]string // interface name of each endpoint, by key of Merge's argument
}

// Merge computes a sandbox's content from what its endpoints bring, by endpoint id. Names already given (the Link.Name of an
// Attachment) are kept, others are Prefix and the lowest free number, in order of key. AlreadyExists when two want one name,
// FailedPrecondition when two give one route.
func Merge(brought map[string]Attachment) (Merged, error) { panic("contract") }

// Within is the part of c that known names: its links, by name, its routes, by destination, table and metric, and its rules. Inside a
// container nothing carries our mark, so that what Observe finds there is ours only as far as a record says so.
func (c Config) Within(known Config) Config { panic("contract") }
