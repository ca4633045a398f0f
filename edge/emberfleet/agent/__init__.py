"""The device's side of the fleet: enrolment, samples, rounds, updates."""
