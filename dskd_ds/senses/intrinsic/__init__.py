"""Measure dictionaries without training: word in context, separation of antonyms, similarity."""
