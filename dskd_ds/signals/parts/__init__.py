"""The parts of a reply: each module takes, packs and reads one."""
