"""The teacher's signal: the kinds of it, and the parts of a reply that carry it.

`kind.py` says what a kind is; topk.py, exact.py, sampled.py and hidden.py hold one kind each. A
reply has parts (parts/): the top k, draws, hidden states, chosen senses. A kind needs one of them
at every supervised position. The teacher never learns the kind: a request names parts and
positions.
"""
