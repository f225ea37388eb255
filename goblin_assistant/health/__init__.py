"""What is up: the monitor and its checks."""
