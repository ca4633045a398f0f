"""The arithmetic of secure sums (docs/decisions/secure-sums.md): pure functions, no messages, no I/O."""
