"""Checks of rules: alerts, recording rules, their groups, templates and names."""
