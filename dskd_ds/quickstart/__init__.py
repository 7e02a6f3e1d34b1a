"""The first run: packages, texts and stages of `make quickstart`."""
