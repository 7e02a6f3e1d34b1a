"""Messages between students and teachers over ZeroMQ: typed, checked, encrypted, pulled by credits."""

from dskd_ds.link.student import Answer, StudentLink
from dskd_ds.link.teacher import TeacherLink, Work

__all__ = ["Answer", "StudentLink", "TeacherLink", "Work"]
