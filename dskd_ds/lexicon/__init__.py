"""Word relations: reads thesauri and dictionaries of many formats into one table of word pairs."""
