"""`backup`: one file with everything that a server must not lose."""

import gc
import sys
from pathlib import Path

import click

from anymind_lite.cli import _settings


@click.command("backup")
@click.argument("file", metavar="FILE")
@click.option("--data", metavar="DIR", help="Folder for everything that is stored.")
def command(file: str, data: str | None) -> None:
    """Save the database, all artifacts and the signing key to FILE, also while a server runs.

    FILE holds secrets and is readable by you alone. Exit code 1 also when artifacts were missing or
    damaged; everything else is saved then.
    """
    settings = _settings.load({"DATA_DIR": _settings.absolute(data)}).settings
    from anymind_lite.services.backups import make_backup

    gc.enable()

    target = Path(file).absolute()
    backup = make_backup(settings, target)
    click.echo(f"Saved {target}: {backup.size_bytes:,} bytes, {backup.artifacts} artifacts.")
    if not backup.has_secret_key:
        click.echo("The key that signs log-ins is not in it: SECRET_KEY is set, or there is none.")
    for path in backup.lost:
        click.echo(f"Warning: {path} is missing or damaged, and not in the backup.", err=True)
    if backup.lost:
        sys.exit(1)
