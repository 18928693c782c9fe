"""Workloads that do real decode and attention work and export live metrics; they need torch, the generator does not."""
