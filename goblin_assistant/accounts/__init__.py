"""Who is calling: users, API keys, principals, passwords, tokens."""
