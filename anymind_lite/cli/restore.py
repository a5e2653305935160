"""`restore`: a backup put into a data folder that holds nothing yet."""

import gc
from pathlib import Path

import click

from anymind_lite.cli import _settings


@click.command("restore")
@click.argument("file", metavar="FILE")
@click.option("--data", metavar="DIR", help="Folder for everything that is stored.")
def command(file: str, data: str | None) -> None:
    """Put the backup FILE into a data folder that holds no database and no artifacts.

    Run it as the user that serves, while no server runs. Everything is checked before anything is
    put in place; ended in the middle, it can be repeated.
    """
    settings = _settings.load({"DATA_DIR": _settings.absolute(data)}).settings
    from anymind_lite.backend import InstanceLock
    from anymind_lite.services.restores import restore_backup

    gc.enable()

    lock = InstanceLock(settings.run_path / "server.lock")
    contents = restore_backup(Path(file).absolute(), settings, lock=lock)
    click.echo(
        f"Restored the backup of {contents.created_at} into {settings.data_dir}: "
        f"{contents.artifacts} artifacts."
    )
    if contents.missing:
        click.echo(
            f"Warning: {contents.missing} artifacts were missing or damaged already when the "
            "backup was made; upload them again.",
            err=True,
        )
    if not contents.secret_key_sha256 and settings.secret_key is None:
        click.echo(
            "Warning: the backup has no key that signs log-ins. Set the SECRET_KEY that was set "
            "then, or everybody has to log in again.",
            err=True,
        )
