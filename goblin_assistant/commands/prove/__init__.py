"""goblin-assistant prove: the product's promises, tried against a running deployment."""
