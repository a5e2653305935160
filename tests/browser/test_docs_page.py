"""The API docs page in a browser: every operation is shown, and the page's policy lets it work."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium
from tests.browser.page_server import PageServer
from tests.live_server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

METHODS = {"get", "post", "patch", "put", "delete"}


@pytest.fixture
def pages() -> Iterator[PageServer]:
    with PageServer() as serving:
        yield serving


def test_docs_page_shows_every_operation_without_a_complaint(
    chromium: Chromium, tmp_path: Path
) -> None:
    with LiveServer(tmp_path / "data") as server:
        document = server.api.call("GET", "/openapi.json").json
        visit = chromium.visit(f"{server.url}/docs")
    expected = {
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method in METHODS
    }
    shown = re.findall(r'id="operations-(?!tag-)[\w-]+-(\w+)"', visit.dom)
    assert len(expected) > 15
    assert sorted(shown) == sorted(expected)
    assert visit.console == []


def test_a_complaint_would_be_seen(chromium: Chromium, pages: PageServer) -> None:
    """Without this the test above could pass because a newer browser logs otherwise."""
    pages.add_header("Content-Security-Policy", "script-src 'self'")
    pages.add("/bad.js", b"console.error('complaint'); no_such_name();")
    pages.add("/bad.html", b"<script>1</script><script src='/bad.js'></script>")
    console = "\n".join(chromium.visit(f"{pages.origin}/bad.html").console)
    assert "Content Security Policy" in console
    assert "complaint" in console
    assert "no_such_name is not defined" in console
