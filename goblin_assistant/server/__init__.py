"""waitress around the application."""
