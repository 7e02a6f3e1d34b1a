"""Metrics of a run, as a file and in TensorBoard."""
