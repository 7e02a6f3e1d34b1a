"""What every rank needs before it has a role: command lines, launchers, devices, MPI, seeds."""
