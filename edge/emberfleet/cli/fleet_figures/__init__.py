"""What `emberfleet bench fleet` measures: one subject a file, which the benchmarks use too."""
