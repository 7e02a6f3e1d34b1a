"""What the quickstart and the other languages fetch and prepare: packages, texts, thesauri."""
