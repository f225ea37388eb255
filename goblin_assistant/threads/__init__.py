"""Threads of this process: their budget, the reaper of finalised work, what a fork leaves behind."""
