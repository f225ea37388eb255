"""What the product costs, compared with other servers. See README.md."""
