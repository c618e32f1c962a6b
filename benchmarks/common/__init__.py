"""What the benchmarks share: networks and their training, data, refiners, tables."""
