"""The documents are true: addresses, links, the map, the ladder, layers, names in the text."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from anymind_lite.app import create_app
from anymind_lite.backend import Backend
from anymind_lite.config import SETTINGS, load_settings
from anymind_lite.sandbox.in_child.layers import LAYERS
from tests.unit.test_ladder import LADDER, MODULES

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "data/README.md", "bench/**/*.md")
    for path in ROOT.glob(pattern)
)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(path: Path, heading: str) -> str:
    """Return the text below a heading of the second level."""
    return read(path).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def first_block(text: str) -> list[str]:
    """Return the lines of the first fenced block."""
    return text.split("```")[1].splitlines()[1:]


# The API ------------------------------------------------------------------------------------------


def test_every_address_is_described_and_no_other(tmp_path: Path) -> None:
    app = create_app(Backend(load_settings(tmp_path, environ={}).settings))
    served = {
        f"{method} " + re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = re.findall(r"^### `([A-Z]+ /\S*)`$", read(DOCS / "api.md"), re.MULTILINE)
    assert sorted(described) == sorted(served)


def test_every_setting_that_is_named_exists() -> None:
    known = {setting.name for setting in SETTINGS}
    no_settings = {"ANYMIND_API_URL", "ANYMIND_API_KEY", "ANYMIND_NO_BOOTSTRAP", "SSL_CERT_FILE"}
    no_settings |= {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}  # what agents find
    pages = (
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        *(DOCS / f"{n}.md" for n in ("api", "sandbox")),
    )
    for page in pages:
        named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", read(page)))
        named = {name for name in named if not name.startswith("RLIMIT")}
        assert named <= known | no_settings, page.name


# Links --------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


# The map ------------------------------------------------------------------------------------------


def mapped() -> Iterator[str]:
    """Yield every path that the map names, relative to the project's folder."""
    folders: list[str] = []
    for line in first_block(section(DOCS / "architecture.md", "Map")):
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(" {2,}", line.strip(), maxsplit=1)[0].split()
        for name in names:
            yield "".join(folders[:depth]) + name
        if names[0].endswith("/"):
            folders[depth:] = [names[0]]


def test_what_the_map_names_exists() -> None:
    for path in mapped():
        assert (ROOT / path).exists(), path


def test_the_map_names_every_module_with_code() -> None:
    named = set(mapped())
    missing = [
        str(path.relative_to(ROOT)) for path in MODULES if str(path.relative_to(ROOT)) not in named
    ]
    assert missing == []


# What else the pages say about the code -----------------------------------------------------------


def test_the_ladder_is_drawn_as_it_is_held() -> None:
    drawn = [
        tuple(line.split()) for line in first_block(section(DOCS / "architecture.md", "Ladder"))
    ]
    assert drawn == [tuple(rung) for rung in LADDER]


def test_the_layers_are_listed_in_their_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section(DOCS / "sandbox.md", "The layers"), re.M)
    assert rows == [(layer.name, layer.promise) for layer in LAYERS]


def defined_names() -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(read(path)))
        if isinstance(node, kinds)
    }


@pytest.mark.parametrize("name", ["architecture.md", "sandbox.md", "style.md"])
def test_functions_that_are_named_exist(name: str) -> None:
    named = re.findall(r"`(?:\w+\.)*(\w+)\(\)`", read(DOCS / name))
    python_itself = {"exit", "monotonic"}
    assert set(named) - python_itself - defined_names() == set()


def test_decisions_are_numbered_in_order() -> None:
    numbers = [int(path.name[:4]) for path in sorted((DOCS / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
