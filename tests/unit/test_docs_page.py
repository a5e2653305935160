"""The API docs page: nothing inline, nothing from elsewhere, vendored files as recorded."""

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

CONSOLE = Path(__file__).parents[2] / "anymind_lite" / "console"
SWAGGER_UI = CONSOLE / "vendor" / "swagger-ui"
ASSETS = "/docs/assets/"


class Page(HTMLParser):
    """Collects what the page loads, and what it has inline."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self._open_script = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.inline += [name for name in values if name == "style" or name.startswith("on")]
        self.inline += ["style"] * (tag == "style")
        self._open_script = tag if tag == "script" else ""
        if tag in ("script", "link"):
            self.loads.append(str(values.get("src") or values.get("href")))

    def handle_data(self, data: str) -> None:
        if self._open_script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open_script = ""


def docs_page() -> Page:
    page = Page()
    page.feed((CONSOLE / "docs.html").read_text(encoding="utf-8"))
    return page


def test_docs_page_loads_only_shipped_files() -> None:
    loads = docs_page().loads
    assert loads
    for url in loads:
        assert url.startswith(ASSETS)
        assert (CONSOLE / url.removeprefix(ASSETS)).is_file()


def test_docs_page_has_nothing_inline() -> None:
    assert docs_page().inline == []


def test_docs_page_sends_nothing_to_the_validator() -> None:
    script = (CONSOLE / "docs.js").read_text(encoding="utf-8")
    assert "validatorUrl: null" in script
    assert not re.search(r"https?://", script)


def test_vendored_files_are_those_recorded() -> None:
    recorded = re.findall(
        r"^([0-9a-f]{64})  (\S+)$", (SWAGGER_UI / "VERSION").read_text("utf-8"), re.MULTILINE
    )
    assert {name for _, name in recorded} == {
        path.name for path in SWAGGER_UI.iterdir() if path.name != "VERSION"
    }
    for sha256, name in recorded:
        assert hashlib.sha256((SWAGGER_UI / name).read_bytes()).hexdigest() == sha256
