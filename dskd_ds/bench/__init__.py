"""Benchmarks: ratios of two ways to do the same work, measured within one run, with the target beside each."""
