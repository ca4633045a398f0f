"""A round as a state machine: one file per phase, pure transitions, and the coordinator that acts."""
