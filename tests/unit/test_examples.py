"""The examples are complete, use nothing but the standard library, and do what they say."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())

# A stand-in for the server's runner: reads a job from stdin, writes one JSON line after the prints.
RUNNER = """
import importlib, json, sys
job = json.load(sys.stdin)
sys.path.insert(0, job["folder"])
module, function = job["entrypoint"].split(":")
handle = getattr(importlib.import_module(module), function)
try:
    answer = {"result": handle(job["payload"])}
except ValueError as exc:
    answer = {"error": str(exc)}
print(json.dumps(answer, allow_nan=False))
"""

each_example = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def manifest(folder: Path) -> dict[str, Any]:
    loaded = yaml.safe_load((folder / "anymind.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def run(folder: Path, payload: Any, cwd: Path) -> dict[str, Any]:
    """Call the example's entrypoint in a fresh interpreter that sees only the example's folder."""
    job = {
        "folder": str(folder),
        "entrypoint": manifest(folder)["entrypoint"],
        "payload": payload,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-W", "error", "-c", RUNNER],
        input=json.dumps(job),
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def module_paths(folder: Path, module: str) -> tuple[Path, Path]:
    path = folder.joinpath(*module.split("."))
    return path.with_suffix(".py"), path / "__init__.py"


def test_there_are_examples() -> None:
    assert {"hello", "invoice", "text_analyser", "csv_report"} <= {path.name for path in FOLDERS}


@each_example
def test_example_is_complete(folder: Path) -> None:
    for name in ("anymind.yaml", "payload.json", "expected.json"):
        assert (folder / name).is_file()
    assert set(manifest(folder)) == {"name", "entrypoint", "description"}


@each_example
def test_entrypoint_names_a_documented_function_of_the_folder(folder: Path) -> None:
    module, function = manifest(folder)["entrypoint"].split(":")
    source = next(path for path in module_paths(folder, module) if path.is_file())
    functions = {
        node.name: ast.get_docstring(node)
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert functions[function]


@each_example
def test_example_imports_only_the_standard_library_and_itself(folder: Path) -> None:
    own = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    assert not own & sys.stdlib_module_names
    for source in folder.rglob("*.py"):
        imported = imported_modules(source)
        assert imported <= own | sys.stdlib_module_names, source


def imported_modules(source: Path) -> set[str]:
    """Return the top-level names of what a file imports absolutely."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@each_example
def test_sample_payload_gives_exactly_the_expected_result(folder: Path, tmp_path: Path) -> None:
    payload = json.loads((folder / "payload.json").read_text(encoding="utf-8"))
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    assert run(folder, payload, tmp_path) == {"result": expected}
    assert list(tmp_path.iterdir()) == []


@each_example
def test_readme_shows_the_example(folder: Path) -> None:
    assert f"[{folder.name}]({folder.name})" in (EXAMPLES / "README.md").read_text("utf-8")


ITEM = {"description": "Handbook", "quantity": 3, "unit_price": "24.95"}
INVOICE = {"number": "7", "issued_on": "2026-03-31", "country": "DE", "items": [ITEM]}
ADA = {"csv": "name,born\nAda,1815\nGrace,1906", "group_by": "name", "measure": "born"}


@pytest.mark.parametrize(
    ("example", "payload", "part_of_message"),
    [
        ("hello", {"input": 5}, '"input" must be a name, such as "Ada", not 5'),
        ("hello", {"input": " "}, '"input" must be a name'),
        ("invoice", {}, "country must be one of BE, DE, DK"),
        ("invoice", {}, "; number must be a text"),
        ("invoice", {**INVOICE, "country": "XX"}, 'PL, SE, but is "XX"'),
        ("invoice", {**INVOICE, "issued_on": "31.3.2026"}, 'such as "2026-03-31", but is "31.3.'),
        ("invoice", {**INVOICE, "issued_on": "9999-12-31"}, "in the years 2000 to 2100"),
        ("invoice", {**INVOICE, "items": []}, "items must be a list of 1 to 1000"),
        ("invoice", {**INVOICE, "items": ["x"]}, "items[0] must be an object"),
        ("invoice", {**INVOICE, "items": [{**ITEM, "quantity": 0}]}, "items[0].quantity must be"),
        ("invoice", {**INVOICE, "items": [ITEM, {**ITEM, "unit_price": "x"}]}, "items[1].unit_pr"),
        ("invoice", {**INVOICE, "items": [{**ITEM, "unit_price": -1}]}, "between 0 and 1,000,000"),
        ("invoice", {**INVOICE, "items": [{**ITEM, "unit_price": "1e-99"}]}, "at most 6 decimals"),
        ("invoice", {**INVOICE, "items": [{**ITEM, "vat_percent": 8}]}, "rate of 8 %; use 19, 7, "),
        ("invoice", {**INVOICE, "discount_percent": True}, "discount_percent must be a number"),
        ("invoice", {**INVOICE, "payment_days": 1.5}, "payment_days must be a whole number"),
        ("text_analyser", {}, 'send either "text" or "document" (one of alice_chapter_1, decl'),
        ("text_analyser", {"document": "../main"}, '"document" must be one of alice_chapter_1'),
        ("text_analyser", {"document": ["x"]}, '"document" must be one of'),
        ("text_analyser", {"text": 5}, '"text" must be a text, not int'),
        ("text_analyser", {"text": "... 12"}, "the text has no words"),
        ("text_analyser", {"text": "a" * 500_001}, "500,001 characters; the most is 500,000"),
        ("text_analyser", {"text": "One.", "top": -1}, "between 0 and 100"),
        ("csv_report", {}, '"group_by" is missing; the columns are species, island, bill_length'),
        ("csv_report", {**ADA, "measure": "age"}, "no column: 'age'; the columns are name, born"),
        ("csv_report", {**ADA, "measure": "name"}, 'must be a column of numbers; "name" has \'Ada'),
        ("csv_report", {**ADA, "filters": []}, '"filters" must be an object'),
        ("csv_report", {**ADA, "filters": {"age": 1}}, "the columns are name, born"),
        ("csv_report", {**ADA, "filters": {"born": {"from": 1}}}, '"min" and "max", nothing else'),
        ("csv_report", {**ADA, "filters": {"born": {"min": "x"}}}, '"min" in the filter of "born"'),
        ("csv_report", {**ADA, "filters": {"born": None}}, "must be a value, a list of values"),
        ("csv_report", {**ADA, "csv": 5}, '"csv" must be a CSV as text'),
        ("csv_report", {**ADA, "csv": ""}, "the CSV is empty"),
        ("csv_report", {**ADA, "csv": "name,name\n1,2"}, "must name each column once"),
        ("csv_report", {**ADA, "csv": "name,born\nAda"}, "line 2 has 1 values for 2 columns"),
        ("csv_report", {**ADA, "csv": 'name,born\n"Ada,1'}, "cannot be read: unexpected end"),
    ],
)
def test_bad_payload_is_answered_with_what_to_mend(
    example: str, payload: dict[str, Any], part_of_message: str, tmp_path: Path
) -> None:
    answer = run(EXAMPLES / example, payload, tmp_path)
    assert part_of_message in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("example", "payload", "part_of_result"),
    [
        ("hello", {}, {"message": "Hello, world!"}),
        # As a float 0.145 is a little less, and would be rounded down.
        (
            "invoice",
            {**INVOICE, "items": [{**ITEM, "quantity": 1, "unit_price": 0.145}]},
            {"net": "0.15", "vat": "0.03", "gross": "0.18", "due_on": "2026-04-14"},
        ),
        (
            "invoice",
            {**INVOICE, "country": "ie", "items": [{**ITEM, "vat_percent": "13.50"}]},
            {"country": "Ireland", "net": "74.85", "vat": "10.10", "gross": "84.95"},
        ),
        (
            "text_analyser",
            {"text": 'Dr. J. Smith went home. "Did he?" I asked. It cost 3.50 euros!', "top": 0},
            {"words": 12, "sentences": 4, "top_words": []},
        ),
        ("csv_report", {**ADA, "filters": {"born": {"max": 1900}}}, {"rows": 1, "missing": 0}),
        (
            "csv_report",
            {**ADA, "csv": "name,born\nAda,1815\nAda,NA\nAda,1817.5\n\n"},
            {
                "missing": 1,
                "groups": [
                    {
                        "group": "Ada",
                        "count": 2,
                        "mean": 1816.25,
                        "median": 1816.25,
                        "min": 1815.0,
                        "max": 1817.5,
                    }
                ],
            },
        ),
    ],
)
def test_example_answers_other_payloads(
    example: str, payload: dict[str, Any], part_of_result: dict[str, Any], tmp_path: Path
) -> None:
    result = run(EXAMPLES / example, payload, tmp_path)["result"]
    assert {key: result[key] for key in part_of_result} == part_of_result


def test_penguins_match_the_published_means(tmp_path: Path) -> None:
    """Gorman, Williams and Fraser's data: 151, 68 and 123 birds were weighed."""
    payload = {"group_by": "species", "measure": "body_mass_g"}
    result = run(EXAMPLES / "csv_report", payload, tmp_path)["result"]
    assert [(row["group"], row["count"], row["mean"]) for row in result["groups"]] == [
        ("Adelie", 151, 3700.66),
        ("Chinstrap", 68, 3733.09),
        ("Gentoo", 123, 5076.02),
    ]
    assert result["missing"] == 2
