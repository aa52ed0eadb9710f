package netns

// Kept is how many namespaces are ready.
func (p *Provider) Kept() int {
	p.ready.mu.Lock()
	defer p.ready.mu.Unlock()
	return len(p.ready.spaces)
}

// MakingGroup is the group of links that are being made.
func (p *Provider) MakingGroup() uint32 { return p.groups.making }
