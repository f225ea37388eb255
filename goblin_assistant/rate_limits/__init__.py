"""How often one may ask, and where that is counted."""
