"""Messages between students and teachers typed, checksummed, encrypted."""

from dskd_ds.link.jobs import Answer
from dskd_ds.link.sides import StudentSide, TeacherSide, open_student_side, open_teacher_side
from dskd_ds.link.student import StudentLink
from dskd_ds.link.teacher import TeacherLink
from dskd_ds.link.work import Work

__all__ = [
    "Answer",
    "StudentLink",
    "StudentSide",
    "TeacherLink",
    "TeacherSide",
    "Work",
    "open_student_side",
    "open_teacher_side",
]
