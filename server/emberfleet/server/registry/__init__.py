"""Which models exist, and how the next version is made."""
