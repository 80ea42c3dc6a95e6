"""How deployments follow their traffic: policies compared on traces, and the real thing measured."""
