import os
import sys

PIECES = [
    b"\0" * 1000,
    b"\xff\xfe\xed\xa0\x80\xf8\x88",
    b"\x1b[2J\x1b]0;owned\x07\x1b[31m",
    b"\r\n\x0b\x0c\x85\xe2\x80\xa8",
    "🐍".encode() * 20_000,
    b"\xf0\x9f",
]


def handle(payload):
    for piece in PIECES:
        os.write(1, piece)
    sys.stdout.write("\ud800 \udcff\n")
    return {"achieved": [], "tried": ["odd bytes"]}
