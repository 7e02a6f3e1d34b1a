"""What a run will cost in memory and time, computed before it starts. Loads no torch."""
