"""Decode workloads, and the tiny model that the live proofs serve."""
