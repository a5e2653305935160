"""Anymind Lite: a self-hosted backend that runs Python agents safely.

Importing this package does nothing; `anymind_lite.cli.main` is the way in.
"""

__version__ = "0.1.0"
