"""Where a replica runs: start, stop, list. One file per provider, and a shipped fake."""
