"""How soon a bad canary is found, and how often a good one is taken for bad."""
