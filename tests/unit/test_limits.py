"""A version gets what it asks for up to the caps, and the operator's limits for the rest."""

from pathlib import Path
from typing import Any

import pytest

from anymind_lite.config import Settings, load_settings
from anymind_lite.errors import BuildError
from anymind_lite.manifest import LIMIT_KEYS
from anymind_lite.sandbox.policy import MEGABYTE, Limits
from anymind_lite.services.limits import (
    build_limits,
    check_limits,
    execution_limits,
    operator_caps,
    operator_limits,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(tmp_path, environ={}).settings


def limits_for(settings: Settings, asked: dict[str, float]) -> Limits:
    return execution_limits(operator_limits(settings, 30), asked, operator_caps(settings))


def changes(settings: Settings, asked: dict[str, float]) -> dict[str, Any]:
    before, after = limits_for(settings, {}), limits_for(settings, asked)
    return {name: value for name, value in vars(after).items() if value != vars(before)[name]}


def test_the_operators_defaults_are_those_of_the_sandbox(settings: Settings) -> None:
    assert operator_limits(settings, settings.execution_timeout_seconds) == Limits()
    assert limits_for(settings, {}) == Limits()


ASKED: list[tuple[dict[str, float], dict[str, Any]]] = [
    ({"timeout_seconds": 1.5}, {"wall_seconds": 1.5, "cpu_seconds": 2}),
    ({"timeout_seconds": 300}, {"wall_seconds": 300, "cpu_seconds": 301}),
    ({"memory_mb": 64}, {"data_bytes": 64 * MEGABYTE}),
    (
        {"memory_mb": 512},
        {"data_bytes": 512 * MEGABYTE, "address_space_bytes": 1280 * MEGABYTE},
    ),
    (
        {"memory_mb": 512, "address_space_mb": 600},
        {"data_bytes": 512 * MEGABYTE, "address_space_bytes": 600 * MEGABYTE},
    ),
    ({"address_space_mb": 512}, {"address_space_bytes": 512 * MEGABYTE}),
    ({"file_mb": 1}, {"file_bytes": MEGABYTE}),
    ({"scratch_mb": 100}, {"scratch_bytes": 100 * MEGABYTE}),
    ({"scratch_files": 16}, {"scratch_files": 16}),
    ({"open_files": 200}, {"open_files": 200}),
    ({"processes": 1}, {"processes": 1}),
]


@pytest.mark.parametrize(("asked", "expected"), ASKED)
def test_what_is_asked_for_takes_the_place_of_the_default(
    settings: Settings, asked: dict[str, float], expected: dict[str, Any]
) -> None:
    assert changes(settings, asked) == expected


def test_caps_that_were_lowered_since_the_build_hold(tmp_path: Path) -> None:
    caps = {
        "EXECUTION_TIMEOUT_SECONDS": "2",
        "MAX_TIMEOUT_SECONDS": "3",
        "EXECUTION_MEMORY_MB": "100",
        "MAX_MEMORY_MB": "128",
        "MAX_PROCESSES": "64",
        "MAX_ADDRESS_SPACE_MB": "1030",
    }
    settings = load_settings(tmp_path, environ=caps).settings
    limits = limits_for(settings, {"timeout_seconds": 300, "memory_mb": 999, "processes": 100})
    assert (limits.wall_seconds, limits.cpu_seconds) == (3, 4)
    assert (limits.data_bytes, limits.processes) == (128 * MEGABYTE, 64)
    assert limits.address_space_bytes == 1030 * MEGABYTE


def test_a_build_keeps_its_own_time(settings: Settings) -> None:
    asked = {"timeout_seconds": 1.0, "memory_mb": 64.0}
    limits = build_limits(operator_limits(settings, 20), asked, operator_caps(settings))
    assert (limits.wall_seconds, limits.cpu_seconds) == (20, 21)
    assert limits.data_bytes == 64 * MEGABYTE


@pytest.mark.parametrize("key", LIMIT_KEYS)
def test_what_is_over_a_cap_is_refused_with_both_numbers(settings: Settings, key: str) -> None:
    caps = operator_caps(settings)
    check_limits({key: caps[key]}, caps)
    with pytest.raises(BuildError) as caught:
        check_limits({key: caps[key] + 1}, caps)
    cap = int(caps[key])
    assert str(caught.value) == (
        f"anymind.yaml: limits.{key} is {cap + 1}, this server allows at most {cap} "
        f"(MAX_{key.upper()})."
    )
