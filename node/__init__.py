"""The processes of a host."""

__version__ = "0.1.0"
