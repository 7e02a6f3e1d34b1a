"""Selects the positions that get the sense term, and the senses that form S+ and S- at them."""
