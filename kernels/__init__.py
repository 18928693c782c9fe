"""Workloads that do real decode and attention work and export live metrics; only they need torch."""
