"""What users declare and what the platform observes. No I/O, no clock, no randomness."""
