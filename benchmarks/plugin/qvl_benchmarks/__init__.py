"""What the benchmarks need of a plugin."""
