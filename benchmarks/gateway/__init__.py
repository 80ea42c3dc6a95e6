"""The front door beside other proxies: same load, same upstream, one core each. `python -m benchmarks.gateway`."""
