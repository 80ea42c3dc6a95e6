"""How a model runs: from a version and resources to a launch spec. Data out, no processes."""
