"""Fetches and prepares the input of the quickstart and of the French and Spanish specs."""
