"""Bundles to files: Prometheus rules and configuration, Grafana dashboards, and the writer of folders."""
