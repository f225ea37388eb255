"""The wire formats that we offer to clients, as pure functions."""
