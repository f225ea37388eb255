"""goblin-assistant doctor: each line, once when it passes and once when it does not."""
