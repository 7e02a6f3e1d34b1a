"""Looking at a dictionary: in words, on a map, as statistics, in the embedding projector."""
