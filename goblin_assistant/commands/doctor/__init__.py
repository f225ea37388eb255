"""goblin-assistant doctor: the deployment checklist. checklist.py is its table of contents."""
