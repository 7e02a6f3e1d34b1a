"""The `dskd` command, and what a launch runs on each rank for it."""
