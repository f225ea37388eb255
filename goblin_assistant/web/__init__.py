"""What depends on Flask, except for the views."""
