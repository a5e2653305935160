"""`config`: every setting, its value and where it came from."""

import json

import click

from anymind_lite.cli import _settings


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--data", metavar="DIR", help="Folder for everything that is stored.")
def command(as_json: bool, data: str | None) -> None:
    """Show every setting, its value and where it came from; secrets are masked."""
    shown = list(_settings.load({"DATA_DIR": _settings.absolute(data)}).shown())
    if as_json:
        rows = {one.name: {"value": one.value, "source": one.source} for one in shown}
        click.echo(json.dumps(rows, indent=2))
        return
    name_width = max(len(one.name) for one in shown)
    value_width = max(len(one.value) for one in shown)
    for one in shown:
        click.echo(f"{one.name:{name_width}}  {one.value:{value_width}}  {one.source}")
