"""The frozen teacher: its weights, the signal taken from it, the service that streams it."""
