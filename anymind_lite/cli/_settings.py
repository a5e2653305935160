"""Settings and logging for the commands that run a server."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import click

from anymind_lite.config import LoadedSettings, load_settings

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent


def load(overrides: Mapping[str, object] | None = None) -> LoadedSettings:
    """Read the settings and warn about what looks like a mistake. Raises SettingsError."""
    loaded = load_settings(PROJECT_DIR, environ=os.environ, overrides=overrides)
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    return loaded


def absolute(data: str | None) -> str | None:
    """Read `--data` against the folder in which the command was typed."""
    return None if data is None else os.path.abspath(data)


def set_up_logging(level: str) -> None:
    """Log to stderr, one event a line; libraries speak from WARNING on."""
    logging.basicConfig(
        level=level, format="%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"
    )
    for library in ("huey", "peewee"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # A full thread pool is not news: the executions are bounded elsewhere.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
