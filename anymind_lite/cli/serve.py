"""`serve`: the server in the foreground."""

from typing import TYPE_CHECKING

import click

from anymind_lite.cli import _settings

if TYPE_CHECKING:
    from anymind_lite.cli._http_server import HttpServer


@click.command("serve")
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes any free one.  [default: 8000]")
@click.option("--data", metavar="DIR", help="Folder for everything that is stored.")
def command(host: str | None, port: int | None, data: str | None) -> None:
    """Start the server; SIGTERM or Ctrl-C ends it when running executions have ended."""
    loaded = _settings.load(
        {"SERVER_HOST": host, "SERVER_PORT": port, "DATA_DIR": _settings.absolute(data)}
    )
    _settings.set_up_logging("DEBUG" if loaded.settings.debug else loaded.settings.log_level)
    from anymind_lite.cli._running import run_server

    def announce(server: "HttpServer", _backend: object) -> bool:
        click.echo(f"Serving at {server.url} (API documentation: {server.url}/docs)")
        return True

    run_server(loaded.settings, announce)
