"""Faults, played on a deployment under load: `python -m gameday`."""
