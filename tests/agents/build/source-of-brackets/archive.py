"""Made, as no editor or linter should have to read it."""

from tests.live_server import pack_agent


def build() -> bytes:
    return pack_agent("x = " + "(" * 3000 + ")" * 3000)
