"""Prometheus rules and a Grafana dashboard for the platform's metrics, as files of this package."""
