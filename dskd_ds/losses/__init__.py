"""Losses as pure functions on some positions, and the objective that sums them over all."""
