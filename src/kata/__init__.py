"""The host side of Kata Containers."""

__version__ = "0.1.0"
