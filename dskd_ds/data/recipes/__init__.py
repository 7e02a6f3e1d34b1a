"""Recipes: known data sets -> JSONL files that a `[data]` source reads."""
