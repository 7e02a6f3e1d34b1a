"""Distils large language models with word senses (DSKD, arXiv 2602.22351)."""

__version__ = "0.1.0"
