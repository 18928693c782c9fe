"""Attention kernels, one idea a file: what each computes stands in `reference`, in float64."""
