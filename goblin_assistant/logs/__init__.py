"""JSON log lines: how they are formatted, written and kept free of secrets."""
