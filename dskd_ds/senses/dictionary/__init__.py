"""The sense dictionary on disk: its files, what it was built from, and distances to its rows."""
