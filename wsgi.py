"""The application for any WSGI server: `flask --app wsgi run`, `waitress-serve wsgi:app`.

The factory reads `.env` in the working directory. `flask` also reads `.flaskenv` (development).
"""

import sys

from goblin_assistant import create_app
from goblin_assistant.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    print(f"goblin-assistant: {error}", file=sys.stderr)
    raise SystemExit(2) from None
