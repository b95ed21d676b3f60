"""The trials of tests/benchmarks/reliability.py: each does harm, and counts what came of it."""
