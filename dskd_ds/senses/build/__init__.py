"""Building a dictionary: the teacher reads, vectors are kept, clustered and put together."""
