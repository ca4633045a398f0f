"""What `make bench` measures: one subject a file, each with `measure(setting)`."""
