import decimal
import itertools
import sqlite3

HUGE = 1 << 42


def of_decimal():
    with decimal.localcontext() as context:
        context.prec = decimal.MAX_PREC
        return decimal.Decimal(1) / 3


ATTACKS = {
    "str": lambda: "x" * HUGE,
    "bytes": lambda: bytes(HUGE),
    "bytearray": lambda: bytearray(HUGE),
    "list": lambda: [None] * HUGE,
    "tuple": lambda: (None,) * HUGE,
    "format_width": lambda: f"{1:{HUGE}}",
    "percent_width": lambda: "%*d" % (1 << 40, 1),  # noqa: UP031
    "float_precision": lambda: f"{1.0:.{1 << 30}f}",
    "int_to_bytes": lambda: (1).to_bytes(HUGE, "big"),
    "shift": lambda: 1 << (1 << 45),
    "center": lambda: "x".center(HUGE),
    "expandtabs": lambda: "\t".expandtabs(1 << 30) * 64,
    "decimal": of_decimal,
    "product": lambda: itertools.product(range(1 << 40)),
    "zeroblob": lambda: (
        sqlite3.connect(":memory:").execute("select zeroblob(900000000)").fetchone()
    ),
    "memoryview": lambda: memoryview(bytes(1 << 28)).cast("B").tolist(),
}


def handle(payload):
    achieved = []
    for name, attack in ATTACKS.items():
        try:
            attack()
        except (MemoryError, OverflowError, ValueError, sqlite3.Error):
            continue
        achieved.append(name)
    return {"achieved": achieved, "tried": list(ATTACKS)}
