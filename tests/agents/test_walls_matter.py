"""Each layer matters: one is switched off at a time, and it is recorded which attacks then succeed.

`walls.toml` holds the record. A case counts as succeeding when anything of it does: it achieves
something, ends in another way than it must, or something outside has changed.
"""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anymind_lite.sandbox.in_child.layers import LAYERS
from tests.agents.conftest import stop_for
from tests.agents.corpus import Case, read_corpus
from tests.agents.rig import Rig, Unavailable

pytestmark = pytest.mark.hostile

_FOLDER = Path(__file__).parent
WALLS: dict[str, Any] = tomllib.loads((_FOLDER / "walls.toml").read_text(encoding="utf-8"))
PROBES = {case.name: case for case in read_corpus() if case.name in WALLS["probes"]}
# All that needs namespaces at once, as where a machine refuses them: tier B is left.
_NAMESPACES = "namespaces"
_LAYER_NAMES = [layer.name for layer in LAYERS]


def rig_without(layer: str, data: Path) -> Rig:
    if layer == _NAMESPACES:
        return Rig(data, "tier-b")
    program = (sys.executable, str(_FOLDER / "without_layer.py"), layer.replace("+", ","))
    return Rig(data, "tier-a", program)


class Attempts:
    """Runs cases one by one; a rig that one of them has disturbed is replaced."""

    def __init__(self, layer: str, new_folder: Callable[[], Path]) -> None:
        self._layer = layer
        self._new_folder = new_folder
        self._rig: Rig | None = None

    def succeeds(self, case: Case) -> bool:
        """Tell whether a case gets anything done."""
        if self._rig is None:
            self._rig = rig_without(self._layer, self._new_folder() / "data").__enter__()
        try:
            self._rig.run(case)
        except AssertionError:
            self.end()
            return True
        return False

    def end(self) -> None:
        """Stop the server; an attack may have ended it before."""
        rig, self._rig = self._rig, None
        if rig is not None:
            try:
                rig.__exit__(None, None, None)
            except AssertionError:
                pass


@pytest.mark.parametrize("layers", WALLS["without"])
def test_what_succeeds_without_a_layer_is_known(
    layers: str, new_folder: Callable[[], Path]
) -> None:
    recorded = WALLS["without"][layers]
    if not set(layers.split("+")) <= {_NAMESPACES, *_LAYER_NAMES}:
        pytest.skip("the sandbox has no such layer")
    attempts = Attempts(layers, new_folder)
    try:
        succeeding = [name for name, case in PROBES.items() if attempts.succeeds(case)]
    except Unavailable as exc:
        if not recorded.get("runs_nothing"):
            stop_for(str(exc))
        return
    finally:
        attempts.end()
    assert succeeding == sorted(recorded["succeed"])
    assert succeeding or recorded["because"]


def test_every_layer_is_in_the_record() -> None:
    assert {*_LAYER_NAMES, _NAMESPACES} <= set(WALLS["without"])


def test_every_category_has_a_layer_that_matters() -> None:
    mattering = {name for row in WALLS["without"].values() for name in row.get("succeed", [])}
    for category in ("escape", "neighbours", "network", "leakage"):
        assert any(name.startswith(category) for name in mattering), category
