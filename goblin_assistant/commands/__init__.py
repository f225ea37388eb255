"""Subcommands of goblin-assistant."""
