"""Threads of this process: their budget, work that finalisers leave, and forks."""
