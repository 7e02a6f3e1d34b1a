"""The dictionary on disk, and what it says of itself."""
