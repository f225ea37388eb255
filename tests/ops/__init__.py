"""The files of ops, run with the real programs."""
