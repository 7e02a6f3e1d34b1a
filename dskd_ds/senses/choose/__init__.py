"""Which positions get the sense term, and which senses form S+ and S- there."""
