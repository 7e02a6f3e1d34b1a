"""Measuring a dictionary without training: word in context, synonyms against antonyms, word similarity."""
