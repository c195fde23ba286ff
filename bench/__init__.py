"""Benchmarks against peers; results are in docs/benchmarks/."""
