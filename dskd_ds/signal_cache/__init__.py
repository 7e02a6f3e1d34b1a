"""A read-through cache of teacher signal: what a teacher said of a block is asked only once.

`segments.py` writes and reads records on disk, `index.py` finds them, `store.py` joins both.
`part_rows.py` is what a record holds: one part of the signal at some positions of one block.
`cache.py` splits a request into blocks, and `cached_side.py` puts it in front of the link.
"""
