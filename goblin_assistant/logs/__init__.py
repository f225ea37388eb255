"""JSON log lines: how they are made, written and kept free of secrets."""
