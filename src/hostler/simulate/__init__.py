"""Traffic replayed in virtual time, through the same decisions that scale the real thing."""
