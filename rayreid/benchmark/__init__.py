"""Benchmarks: figures that one command measures and prints."""
