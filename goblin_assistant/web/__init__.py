"""All that knows Flask, but for the views."""
