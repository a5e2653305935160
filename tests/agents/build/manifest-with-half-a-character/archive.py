"""Made, as no editor or linter should have to read it."""

from tests.live_server import pack


def build() -> bytes:
    manifest = b'name: "\\ud800"\nentrypoint: main:handle\n'
    return pack({"anymind.yaml": manifest, "main.py": "def handle(payload):\n    return {}\n"})
