"""Losses as pure functions of some positions, with their gradients in closed form."""
