"""Users, API keys, principals, passwords, tokens: who is calling."""
