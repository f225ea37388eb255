"""The one place that knows the version; setup.cfg reads it from here."""

__version__ = "0.1.1"
