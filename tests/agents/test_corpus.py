"""Every hostile agent ends as it must, and nothing outside of it is touched.

Each test uploads one case of `tests/agents/<category>/<name>/` to a real server, follows it to its
end, and then looks from outside: secrets stayed secret, the neighbour lived undisturbed, nothing is
left, `/health` was quick, and the next honest run works.
"""

import os
from collections.abc import Callable

import pytest

from tests.agents.conftest import Rigs
from tests.agents.corpus import CATEGORIES, Case, read_corpus
from tests.agents.rig import WARM

pytestmark = pytest.mark.hostile

CORPUS = read_corpus()
_NEEDS: dict[str, Callable[[], bool]] = {"x86_64": lambda: os.uname().machine == "x86_64"}


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_hostile_agent_achieves_nothing(rigs: Rigs, case: Case) -> None:
    if unmet := [name for name, is_met in _NEEDS.items() if name in case.needs and not is_met()]:
        pytest.skip(f"needs {unmet}")
    rig = rigs.get()
    if reason := _why_not(case, rig.mode):
        pytest.skip(reason)
    try:
        rig.run(case)
    except BaseException:
        rigs.drop()
        raise


def _why_not(case: Case, mode: str) -> str:
    if "namespaces" in case.needs and mode == "tier-b":
        return "can be stated in namespaces alone"
    if case.ends == "upload" and mode == WARM:
        return "comes to no sandbox, where other modes differ"
    if case.folder.parent.name == "templates" and mode not in ("tier-a", WARM):
        return "there are no templates"
    return ""


def test_every_case_says_what_it_attacks() -> None:
    for case in CORPUS:
        assert case.folder.parent.name in CATEGORIES, case.name
        assert case.attack.endswith("."), case.name
        assert (case.folder / "agent").is_dir() != (case.folder / "archive.py").is_file(), case.name
        assert case.status == "completed" or case.ends != "execution" or case.error_code, case.name
