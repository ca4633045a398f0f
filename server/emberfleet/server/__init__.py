"""The server's side of the fleet: enrolment, rounds, averaging, publication."""
