"""Checkpoints: their folders and files, what a rank holds, and how they are written and read."""
