"""How good senses are in themselves, without training anything: word in context, synonyms against antonyms, word similarity."""
