"""The load test. Start the server, then:

    locust -f locustfile.py --host=http://localhost:8001 --users 10 --spawn-rate 2 --run-time 60s --headless

It ends with a verdict on the production guide's targets and exit code 1 when one is missed. docs/load-testing.md
says more.
"""

from loadtest.session import register
from loadtest.users import GuideUser

__all__ = ["GuideUser"]  # Locust takes its users from here; --scenario puts others in their place

register()
