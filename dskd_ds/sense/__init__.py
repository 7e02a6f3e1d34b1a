"""Senses: from the teacher's states and a lexicon to a dictionary, an index, and candidates for the loss."""
