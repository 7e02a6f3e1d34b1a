"""Losses on states below the head: their layers, senses, values, weights and gradients."""
