"""The training objective: cross-entropy, divergence and sense term, fused over chunks."""
