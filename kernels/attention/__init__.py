"""Attention kernels: one idea a file, a float64 reference beside each fast one."""
