"""Checks against the catalogs: what is read exists, with its labels, and can reach its threshold."""
