package dns

// Between has f called whenever the resolver has looked at questions, and again when it has answered them and not yet taken them.
func (r *Resolver) Between(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine.between = f
}

// Resting says that a socket is left alone now. It is for a function given to Between.
func (r *Resolver) Resting() bool { return len(r.engine.resting) > 0 }
