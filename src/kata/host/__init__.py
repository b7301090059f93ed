"""Thin, typed system calls of the host; knows nothing of containers."""
