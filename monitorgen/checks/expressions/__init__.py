"""Checks of PromQL, wherever it stands: in rules and in panels."""
