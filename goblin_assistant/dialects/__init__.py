"""The wire formats that clients speak here, as pure functions; table.py lists them."""
