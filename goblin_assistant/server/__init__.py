"""waitress, which serves the application."""
