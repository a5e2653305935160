"""Anymind Lite: a self-hosted backend that runs Python agents, each run in a process of its own.

Importing this package does nothing; `anymind_lite.cli.main` is the way in.
"""

__version__ = "0.1.0"
