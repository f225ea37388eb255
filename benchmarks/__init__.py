"""What the product costs, side by side with what it is compared to. See README.md."""
