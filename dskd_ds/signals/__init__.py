"""The teacher's signal: what is asked for, taken from logits, packed for the wire, and read again."""
