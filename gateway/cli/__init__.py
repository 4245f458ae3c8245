"""The command line: each command a few lines over the code that does the work."""

from gateway.cli.main import main

__all__ = ["main"]
