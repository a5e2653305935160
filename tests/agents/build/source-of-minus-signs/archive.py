"""Made, as no editor or linter should have to read it."""

from tests.live_server import pack_agent


def build() -> bytes:
    return pack_agent("x = " + "-" * 100_000 + "1\n")
