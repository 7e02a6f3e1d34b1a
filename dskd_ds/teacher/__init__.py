"""The teacher's process: answers the students' requests with a frozen model."""
