"""The student's side of the teachers: requests, which teacher gets them, and replies as tensors."""
