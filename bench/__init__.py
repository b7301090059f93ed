"""Measurements: each compares A and B within one run, since machines differ and are noisy."""
