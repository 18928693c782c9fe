"""Timing the bundled workloads: targets, runs in processes of their own, expectations, comparison.

Nothing here imports torch: what needs it lies in monitorgen.kernels and runs in the process that is timed.
"""
