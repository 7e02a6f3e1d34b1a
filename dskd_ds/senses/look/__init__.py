"""Ways to look at a dictionary: as text, on a map, as statistics, in the embedding projector."""
