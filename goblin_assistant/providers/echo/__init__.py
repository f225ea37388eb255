"""The embedded provider, which needs no network, and its simulations."""
