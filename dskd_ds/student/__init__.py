"""The student: cut from the teacher, trained under DeepSpeed, saved, exported."""
