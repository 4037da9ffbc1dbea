"""Benchmarks: ``python -m benchmarks.<family>``; the tables of results/ are their output."""
