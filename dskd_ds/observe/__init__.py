"""What a run shows of itself: metrics, TensorBoard, the report, a quiet console."""
