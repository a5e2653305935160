"""Instants: always aware, always UTC, always written alike."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from anymind_lite.clock import iso_format, utc_now

INDIA = timezone(timedelta(hours=5, minutes=30))


def test_now_is_aware_and_utc() -> None:
    before = datetime.now(UTC)
    now = utc_now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 1, 31, 9, 30, 0, 250_000, UTC), "2026-01-31T09:30:00.250Z"),
        (datetime(2026, 1, 31, 9, 30, tzinfo=UTC), "2026-01-31T09:30:00.000Z"),
        (datetime(2026, 1, 31, 9, 30, 0, 999_999, UTC), "2026-01-31T09:30:00.999Z"),
        (datetime(2026, 1, 31, 3, 30, tzinfo=INDIA), "2026-01-30T22:00:00.000Z"),
        (datetime(2026, 1, 1, 5, 29, 59, tzinfo=INDIA), "2025-12-31T23:59:59.000Z"),
        (datetime(33, 1, 1, tzinfo=UTC), "0033-01-01T00:00:00.000Z"),
    ],
)
def test_instants_are_written_in_utc_to_the_millisecond(instant: datetime, text: str) -> None:
    assert iso_format(instant) == text


def test_what_is_written_can_be_read_again() -> None:
    now = utc_now()
    assert now - datetime.fromisoformat(iso_format(now)) < timedelta(milliseconds=1)


def test_the_order_of_the_texts_is_the_order_of_the_instants() -> None:
    start = datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)
    instants = [start + timedelta(milliseconds=7, days=day) * day for day in range(500)]
    texts = [iso_format(instant) for instant in instants]
    assert texts == sorted(texts)
    assert len({len(text) for text in texts}) == 1
