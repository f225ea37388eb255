"""The load test behind locustfile.py: scenarios for Locust, and a verdict on the production guide's targets."""
