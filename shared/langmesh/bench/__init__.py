"""Benchmarks: ratios from one run, because absolute times say more about the machine."""
