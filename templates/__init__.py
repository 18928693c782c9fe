"""Jinja templates for prose: runbooks and reports."""
