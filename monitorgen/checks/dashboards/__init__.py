"""Checks of dashboards: variables, panels, units, legends, and Grafana's own schema."""
