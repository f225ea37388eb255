"""The load test. Start the server, then:

    locust -f locustfile.py --host=http://localhost:8001 \\
        --users 10 --spawn-rate 2 --run-time 60s --headless

It ends with a verdict on the production guide's targets; the exit code is 1 when one is missed. See
docs/load-testing.md.
"""

from loadtest.session import register
from loadtest.users import GuideUser

__all__ = ["GuideUser"]  # Locust reads its users from here; --scenario replaces them

register()
