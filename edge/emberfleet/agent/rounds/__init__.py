"""A device's rounds: what it remembers, what it checks, and what it answers, without I/O."""
