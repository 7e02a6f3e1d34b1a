"""Losses: pure functions on a chunk of positions, and the objective that walks the chunks."""
