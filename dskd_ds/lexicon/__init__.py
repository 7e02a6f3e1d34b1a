"""Who is related to whom: thesauri and dictionaries of many formats -> one table of word pairs, merged with its provenance."""
