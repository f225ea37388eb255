"""goblin-assistant prove: tests the product's promises against a running deployment."""
