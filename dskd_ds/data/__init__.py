"""Text -> packed blocks -> the batches of each rank."""
