"""The `dskd` command line, and the programs that it launches on several ranks."""
