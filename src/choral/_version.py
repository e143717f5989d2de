"""The version, alone, so that everyone may import it."""

__version__ = "0.1.0"
