"""Made, as no editor or linter should have to read it."""

from tests.live_server import pack


def build() -> bytes:
    manifest = b""
    return pack({"anymind.yaml": manifest, "main.py": "def handle(payload):\n    return {}\n"})
