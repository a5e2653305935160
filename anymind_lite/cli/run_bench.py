"""`bench`: measurements of Anymind Lite beside what it is compared with."""

import click


# Its options are bench's own, --help included: nothing else of the product knows of it.
@click.command("bench", context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("bench_args", nargs=-1, type=click.UNPROCESSED)
def command(bench_args: tuple[str, ...]) -> None:
    """Measure this version on this machine; arguments go to bench/command.py."""
    from bench.command import main

    main(bench_args)
