"""Studies: arms x seeds of one base spec, trained, measured and compared by one command."""
