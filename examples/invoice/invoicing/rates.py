"""The VAT rates, read from the data file beside this module."""

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

# The working folder is an empty scratch folder, so files shipped with the agent are found from
# the module's own path.
RATES_FILE = Path(__file__).with_name("vat_rates.json")


@dataclass(frozen=True)
class Country:
    """A country's name, currency code and VAT rates in percent, the standard rate first."""

    name: str
    currency: str
    rates: tuple[Decimal, ...]


@cache
def countries() -> dict[str, Country]:
    """Return every known country by its two-letter code (ISO 3166-1)."""
    table = json.loads(RATES_FILE.read_text(encoding="utf-8"))
    return {
        code: Country(row["name"], row["currency"], tuple(Decimal(rate) for rate in row["rates"]))
        for code, row in table["countries"].items()
    }
