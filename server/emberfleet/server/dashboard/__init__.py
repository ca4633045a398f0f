"""What people see of the fleet in a browser."""
