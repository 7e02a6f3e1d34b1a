"""What a run records of itself: metrics and TensorBoard."""
