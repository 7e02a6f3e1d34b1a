"""Causal language models of transformers: found, read, cut, frozen, continued."""
