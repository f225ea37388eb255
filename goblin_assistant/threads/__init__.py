"""Threads of this process: a budget for slow work, a thread for finalisers, and forks."""
