"""Devices, threads, launchers, roles, MPI: what a process stands on before it is a student or a teacher."""
