"""The HNSW index over a dictionary: built, served to the ranks of a node, copied to nodes."""
