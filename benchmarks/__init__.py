"""Benchmarks, run by ``python -m benchmarks.<name>``, which write the tables in results/."""
