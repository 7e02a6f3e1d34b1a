"""The parts of a reply. Each module takes its part from the teacher, packs it, and reads it again."""
