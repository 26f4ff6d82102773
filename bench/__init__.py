"""Benchmarks: each states its question, its peer and its limit, and runs alone (`python -m bench.shards`)."""
