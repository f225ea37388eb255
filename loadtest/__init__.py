"""The load test of locustfile.py: scenarios for Locust and a verdict on the guide's targets."""
