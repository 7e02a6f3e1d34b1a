"""Builds a dictionary: collect the teacher's states, cluster them per token, write the result."""
