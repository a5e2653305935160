import random
import time

import pytest

from anymind_lite.errors import BuildError
from anymind_lite.manifest import LIMIT_KEYS, MAX_MANIFEST_BYTES, Manifest, load_manifest

FILES = ("anymind.yaml", "lib/__init__.py", "lib/tools.py", "main.py", "src/agent.py")
MINIMAL = "name: a\nentrypoint: main:handle\n"


def refusal(text: str | bytes, files: tuple[str, ...] = FILES) -> str:
    with pytest.raises(BuildError) as caught:
        load_manifest(text, files)
    message = str(caught.value)
    assert message.startswith("anymind.yaml: ")
    assert message.isprintable()
    assert len(message) < 3000
    return message


# --- honest manifests ---


def test_all_fields_are_read() -> None:
    text = (
        "# My agent\n"
        "name: Größe 漢字 👩‍🍳\n"
        'entrypoint: "lib.tools:run_2"\n'
        "description: |\n  Two\n  lines\n"
        "framework: none\n"
        "limits: {timeout_seconds: 1.5, memory_mb: 64}\n"
        "subprocess: true\n"
        "concurrency: 2\n"
        "network: []\n"
    )

    manifest = load_manifest(text, FILES)

    assert manifest == Manifest(
        name="Größe 漢字 👩‍🍳",
        entrypoint="lib.tools:run_2",
        description="Two\nlines\n",
        framework="none",
        text=text,
        limits={"timeout_seconds": 1.5, "memory_mb": 64},
        allows_processes=True,
        concurrency=2,
    )
    assert (manifest.module, manifest.function) == ("lib.tools", "run_2")


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL,
        MINIMAL.encode(),
        b"\xef\xbb\xbf" + MINIMAL.encode(),
        "\ufeff" + MINIMAL,
        MINIMAL.replace("\n", "\r\n"),
        "---\n" + MINIMAL + "...\n",
        "%YAML 1.1\n---\n" + MINIMAL,
        '{"name": "a", "entrypoint": "main:handle"}',
        MINIMAL + "description: null\nframework: ~\n",
        MINIMAL + "description:\n",
        MINIMAL + "other: 2024-99-99\n",
        MINIMAL + "other: 2001-12-14t21:59:43.10-99:99\n",
        MINIMAL + f"other: {'9' * 5000}\n",
        MINIMAL + "other: 190:20:30\nmore: .nan\n",
        MINIMAL + "other: {<<: {a: b}, 1: x, yes: y, null: z}\n",
        MINIMAL + "other: " + "[" * 18 + "]" * 18,
        "name: '  a  '\nentrypoint: ' main:handle '\n",
        MINIMAL + "# " + "x" * (MAX_MANIFEST_BYTES - len(MINIMAL) - 2),
    ],
)
def test_honest_manifests_are_read(text: str | bytes) -> None:
    manifest = load_manifest(text, FILES)

    assert (manifest.name, manifest.entrypoint) == ("a", "main:handle")
    assert manifest.description is None
    assert manifest.framework is None
    assert not manifest.text.startswith("\ufeff")


@pytest.mark.parametrize(
    ("entrypoint", "file"),
    [
        ("main:handle", "main.py"),
        ("lib:handle", "lib/__init__.py"),
        ("a.b.c:handle", "a/b/c.py"),
        ("a.b.c:handle", "a/b/c/__init__.py"),
        ("_x1._y:_", "_x1/_y.py"),
        ("match.type:case", "match/type.py"),
    ],
)
def test_entrypoint_may_name_any_source_file(entrypoint: str, file: str) -> None:
    manifest = load_manifest(f"name: a\nentrypoint: {entrypoint}\n", [file])

    assert manifest.entrypoint == entrypoint


# --- YAML ---

BROKEN: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "it is empty"),
    "comments": ("# name: a\n", "it is empty"),
    "null": ("null", "line 1: it is not a mapping"),
    "list": ("\n- name: a\n", "line 2: it is not a mapping"),
    "text": ("main:handle", "line 1: it is not a mapping"),
    "Latin-1": (b"name: caf\xe9\n", "not UTF-8"),
    "UTF-16": (MINIMAL.encode("utf-16"), "not UTF-8"),
    "UTF-16 without mark": (MINIMAL.encode("utf-16-le"), r'"\x00" on line 1'),
    "surrogate": ("name: \udc80\n", "not UTF-8"),
    "too long": (MINIMAL + "#" * MAX_MANIFEST_BYTES, "over 64 KiB"),
    "too long in bytes": ("# " + "é" * 32768, "over 64 KiB"),
    "NUL": (MINIMAL + "x: \0", r'"\x00" on line 3'),
    "escape character": (MINIMAL + "x: \x1b[2J", r'"\x1b" on line 3'),
    "tab": ("name: a\nentrypoint:\n\t- x\n", "line 3: a tab"),
    "no end": ("name: [a, b\n", "line 2: "),
    "quote": ("name: 'a\n", "line 2: "),
    "colons": ("name: a: b\n", "line 1: mapping values are not allowed here"),
    "indentation": ("name: a\n  entrypoint: b\n", "line 2: mapping values"),
    "second document": (MINIMAL + "---\nname: b\n", "line 3: a second document"),
    "anchor": ("name: &a b\n", "line 1: anchors"),
    "anchor on a key": ("&a name: b\n", "line 1: anchors"),
    "anchor on the root": ("&a\nname: b\n", "anchors"),
    "alias": (MINIMAL + "x: *a\n", "line 3: anchors"),
    "laughs": ("a: &a [l, l]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 1: anchors"),
    "merge": (MINIMAL + "<<: {name: b}\n", 'line 3: the key "<<" is not text'),
    "python tag": ("name: !!python/object/apply:os.system [id]\n", "line 1: the tag"),
    "python name": (MINIMAL + "x: !!python/name:os.system\n", "line 3: the tag"),
    "own tag": ("name: !secret a\n", "line 1: the tag"),
    "plain tag": ("name: ! a\n", "line 1: the tag"),
    "standard tag": ("name: !!str 1\n", "line 1: the tag"),
    "binary": (MINIMAL + "x: !!binary '!'\n", "line 3: the tag"),
    "tag of the root": ("!!map {name: a}\n", "line 1: the tag"),
    "unknown handle": ("name: !x!y a\n", "line 1: found undefined tag handle"),
    "odd URI": ("name: !<%ff> a\n", "line 1: "),
    "key twice": (MINIMAL + "name: b\n", 'line 3: the key "name" is given twice'),
    "key twice in two spellings": (MINIMAL + '"name": b\n', "line 3: the key"),
    "key twice below": (MINIMAL + "x: [{a: 1, a: 2}]\n", 'line 3: the key "a"'),
    "key of a list": ("[a]: b\n", "line 1: a list or a mapping cannot be a key"),
    "key of a mapping below": (MINIMAL + "x: {{a: b}: c}\n", "line 3: a list or a mapping"),
    "number key": (MINIMAL + "1: x\n", 'line 3: the key "1" is not text'),
    "yes key": (MINIMAL + "yes: x\n", 'line 3: the key "yes" is not text'),
    "null key": (MINIMAL + "~: x\n", 'line 3: the key "~" is not text'),
    "time key": (MINIMAL + "2024-99-99: x\n", "line 3: the key"),
    "nested 20 deep": (MINIMAL + "x: " + "[" * 20 + "]" * 20, "line 3: it is nested over 20"),
    "nested 30,000 deep": ("[" * 30_000, "line 1: it is nested over 20"),
    "nested 30,000 mappings": ("{a: " * 15_000, "line 1: it is nested over 20"),
    "nested 30,000 lists": ("- " * 30_000, "line 1: it is nested over 20"),
    "nested 30,000 keys": ("? " * 30_000, "line 1: it is nested over 20"),
    "escape out of range": (r'name: "\UFFFFFFFF"', "out of range"),
    "escape above Unicode": (r'name: "\U00110000"', "out of range"),
    "endless version": (f"%YAML {'9' * 5000}.1\n---\n{MINIMAL}", "out of range"),
    "version 2": (f"%YAML 2.0\n---\n{MINIMAL}", "incompatible YAML document"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_plain_yaml_is_refused_with_its_line(case: str) -> None:
    text, expected = BROKEN[case]

    assert expected in refusal(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    ["[],", "{},", "a,", "- a\n", "- - a\n", "? a\n", "'',", "[a: b],", '"\\x41', "#\n", "\n ",
     "!", "&a ", "*a ", "a: |\n b\n", "k: v\n", "%A\n", "---\n", "> \n", "\u2028", "a b ", ": "],
)  # fmt: skip
@pytest.mark.parametrize("start", ["", "[", "{", '"', "a: ", "a:\n - "])
def test_no_64_kib_take_long(unit: str, start: str) -> None:
    text = start + unit * ((MAX_MANIFEST_BYTES - 6) // len(unit.encode()))
    began = time.monotonic()

    refusal(text)

    assert time.monotonic() - began < 5


# --- fields ---

FIELDS: dict[str, tuple[str, str]] = {
    "no name": ("entrypoint: main:handle\n", "name is missing; write a line such as name:"),
    "empty name": ("name:\nentrypoint: main:handle\n", "line 1: name is missing"),
    "blank name": ("name: '  '\n", "line 1: name is missing"),
    "null name": ("name: ~\n", "line 1: name is missing"),
    "number": ("name: 12\n", "line 1: name is not text"),
    "version": ("name: 1.5\n", "line 1: name is not text"),
    "yes": ("name: yes\n", "line 1: name is not text"),
    "date": ("name: 2024-99-99\n", "line 1: name is not text"),
    "list": ("name: [a]\n", "line 1: name is not text"),
    "mapping": ("name:\n  x: a\n", "name is not text"),
    "long name": (f"name: {'a' * 201}\n", "name is over 200"),
    "two lines": ("name: |\n  a\n  b\n", "name is more than one line"),
    "line separator": ('name: "a\\Lb"\n', "name is more than one line"),
    "escape": ('name: "a\\eb"\n', r"name holds the character"),
    "NUL": ('name: "a\\0b"\n', r"name holds the character"),
    "lone surrogate": ('name: "\\ud800"\n', r"name holds the character"),
    "no entrypoint": ("name: a\n", "entrypoint is missing; write a line such as entrypoint: main:"),
    "empty entrypoint": ("name: a\nentrypoint:\n", "line 2: entrypoint is missing"),
    "list as entrypoint": ("name: a\nentrypoint: [main]\n", "line 2: entrypoint is not text"),
    "mapping as entrypoint": ("name: a\nentrypoint: {main: handle}\n", "entrypoint is not text"),
    "number as description": (MINIMAL + "description: 1\n", "line 3: description is not text"),
    "list as description": (MINIMAL + "description: [a]\n", "line 3: description is not text"),
    "surrogate in description": (MINIMAL + 'description: "\\udfff"\n', "description holds"),
    "NUL in description": (MINIMAL + 'description: "\\0"\n', "line 3: description holds"),
    "list as framework": (MINIMAL + "framework: [a]\n", "line 3: framework is not text"),
    "surrogate in framework": (MINIMAL + 'framework: "\\ud800"\n', "framework holds"),
}


# --- what an agent asks for ---


def test_every_limit_can_be_asked_for_up_to_its_ends() -> None:
    for is_least in (True, False):
        wanted = {key: known.least if is_least else known.most for key, known in LIMIT_KEYS.items()}
        lines = "".join(f"  {key}: {number}\n" for key, number in wanted.items())
        assert load_manifest(f"{MINIMAL}limits:\n{lines}", FILES).limits == wanted


@pytest.mark.parametrize("text", ["", "limits:\n", "limits: {}\n", "limits: ~\n"])
def test_no_limits_are_none(text: str) -> None:
    assert load_manifest(MINIMAL + text, FILES).limits == {}


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("256", 256), ("", None), ("~", None), ("null", None)]
)
def test_concurrency_is_a_number_or_open(text: str, number: int | None) -> None:
    assert load_manifest(f"{MINIMAL}concurrency: {text}\n", FILES).concurrency == number
    assert load_manifest(MINIMAL, FILES).concurrency is None


NO_CONCURRENCY = ["0", "257", "-1", "+1", "1.0", "1.5", "'1'", "01", "0x1", "1_0", "1e1", "1:30",
                  "true", "one", "unlimited", ".inf", ".nan", "[1]", "{a: 1}",
                  "9" * 5000]  # fmt: skip


@pytest.mark.parametrize("text", NO_CONCURRENCY, ids=lambda text: text[:20])
def test_concurrency_of_another_kind_is_refused(text: str) -> None:
    expected = "line 3: concurrency is not a whole number from 1 to 256; write one in plain digits."
    assert refusal(f"{MINIMAL}concurrency: {text}\n") == f"anymind.yaml: {expected}"


WHOLE = "is not a whole number from 16 to 1048576; write one in plain digits"
LIMITS: dict[str, tuple[str, str]] = {
    "text": ("limits: none", "line 3: limits is not a mapping; write lines such as"),
    "list": ("limits: [timeout_seconds]", "line 3: limits is not a mapping"),
    "unknown key": ("limits:\n  memory: 64", 'line 4: limits has no "memory"; did you mean mem'),
    "all keys are told": ("limits: {gpu: 1}", "there are timeout_seconds, memory_mb, address_spa"),
    "capitals": ("limits: {MEMORY_MB: 64}", 'limits has no "MEMORY_MB"; did you mean memory_mb?'),
    "key that is no text": ("limits: {1: 64}", 'line 3: limits has no "1"; there are'),
    "merge": ("limits: {<<: {memory_mb: 64}}", 'limits has no "<<"'),
    "twice": ("limits: {memory_mb: 64, memory_mb: 65}", "is given twice"),
    "string": ("limits: {memory_mb: '64'}", f"limits.memory_mb {WHOLE}"),
    "unit": ("limits: {memory_mb: 64MB}", WHOLE),
    "true": ("limits: {memory_mb: true}", WHOLE),
    "null": ("limits: {memory_mb: }", WHOLE),
    "nested": ("limits: {memory_mb: {a: 1}}", WHOLE),
    "list of one": ("limits: {memory_mb: [64]}", WHOLE),
    "zero": ("limits: {memory_mb: 0}", WHOLE),
    "negative": ("limits: {memory_mb: -64}", WHOLE),
    "signed": ("limits: {memory_mb: +64}", WHOLE),
    "fraction": ("limits: {memory_mb: 64.0}", WHOLE),
    "octal": ("limits: {memory_mb: 0100}", WHOLE),
    "hexadecimal": ("limits: {memory_mb: 0x40}", WHOLE),
    "binary": ("limits: {memory_mb: 0b1000000}", WHOLE),
    "underscore": ("limits: {memory_mb: 6_4}", WHOLE),
    "sexagesimal": ("limits: {memory_mb: 1:04}", WHOLE),
    "exponent": ("limits: {memory_mb: 1.0e+3}", WHOLE),
    "huge": (f"limits: {{memory_mb: {'9' * 5000}}}", WHOLE),
    "date": ("limits: {memory_mb: 2024-01-01}", WHOLE),
    "no time": ("limits: {timeout_seconds: 0.0}", "timeout_seconds is not a number from 0.1"),
    "endless time": ("limits: {timeout_seconds: .inf}", "is not a number from 0.1 to 3600"),
    "no number": ("limits: {timeout_seconds: .nan}", "is not a number from 0.1 to 3600"),
    "long time": ("limits: {timeout_seconds: 3600.1}", "is not a number from 0.1 to 3600"),
    "less space than memory": (
        "limits: {memory_mb: 128, address_space_mb: 127}",
        "line 3: limits.address_space_mb is less than limits.memory_mb",
    ),
    "subprocess as text": ("subprocess: 'true'", "line 3: subprocess is not true or false"),
    "subprocess as number": ("subprocess: 1", "line 3: subprocess is not true or false"),
    "subprocess as list": ("subprocess: [true]", "line 3: subprocess is not true or false"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITS)
def test_wrong_wishes_are_refused_with_their_line(case: str) -> None:
    text, expected = LIMITS[case]

    message = refusal(f"{MINIMAL}{text}\n")

    assert expected in message
    assert "line " in message


@pytest.mark.parametrize(
    ("text", "allows"),
    [("true", True), ("True", True), ("yes", True), ("false", False), ("off", False), ("~", False)],
)
def test_processes_are_asked_for_by_a_truth_of_yaml(text: str, allows: bool) -> None:
    assert load_manifest(f"{MINIMAL}subprocess: {text}\n", FILES).allows_processes is allows


@pytest.mark.parametrize("text", ["false", "no", "none", "~", "", "[]", "{}"])
def test_no_network_may_be_said(text: str) -> None:
    load_manifest(f"{MINIMAL}network: {text}\n", FILES)


@pytest.mark.parametrize("text", ["true", "full", "'false'", "0", "['a:443']", "{a: b}"])
def test_a_network_is_not_promised(text: str) -> None:
    message = refusal(f"{MINIMAL}network: {text}\n")

    assert "line 3: network is not offered: agents have none" in message


@pytest.mark.parametrize("case", FIELDS)
def test_wrong_fields_are_named_with_a_mend(case: str) -> None:
    text, expected = FIELDS[case]

    assert expected in refusal(text)


@pytest.mark.parametrize(
    ("entrypoint", "suggested"),
    [
        ("main.py:handle", "main:handle"),
        ("./main.py:run", "main:run"),
        ("src/agent.py:run", "src.agent:run"),
        ("src\\\\agent.py:run", "src.agent:run"),
        ("src/agent:run", "src.agent:run"),
        ("main.run", "main:run"),
        ("src.agent.run", "src.agent:run"),
        ("main", "main:handle"),
        ("main.py", "main:handle"),
        ("src.agent", "src.agent:handle"),
        ("agent.py", "src.agent:handle"),
        ("main:", "main:handle"),
        (":run", "main:run"),
        ("main:run()", "main:run"),
        ("main::run", "main:handle"),
        ("main:Agent.run", "main:handle"),
        ("main:run ; import os", "main:handle"),
        ("-m main", "main:handle"),
        ("mäin:run", "main:run"),
        ("main:rün", "main:handle"),
        ("1main:run", "main:run"),
        ("main\\n:run", "main:run"),
    ],
)
def test_malformed_entrypoint_gets_a_suggestion(entrypoint: str, suggested: str) -> None:
    text = f'name: a\nentrypoint: "{entrypoint}"\n'

    message = refusal(text)

    assert "line 2: entrypoint" in message
    assert f"write {suggested}." in message


@pytest.mark.parametrize(
    ("entrypoint", "suggested"),
    [
        ("mian:run", "main:run"),
        ("Main:run", "main:run"),
        ("agent:run", "src.agent:run"),
        ("my.agent:run", "src.agent:run"),
        ("zzz:run", "main:run"),
        ("lib.main:run", "main:run"),
        ("src:run", "src.agent:run"),
    ],
)
def test_missing_module_gets_a_suggestion_and_the_list(entrypoint: str, suggested: str) -> None:
    message = refusal(f"name: a\nentrypoint: {entrypoint}\n")

    assert f"write {suggested}, or add it" in message
    assert '"lib/__init__.py", "lib/tools.py", "main.py", "src/agent.py"' in message


def test_list_of_files_is_cut() -> None:
    message = refusal(MINIMAL, tuple(f"f{number:03}.py" for number in range(5000)))

    assert '"f019.py" and 4980 more' in message


def test_archive_without_sources_is_named_so() -> None:
    assert "no .py files" in refusal(MINIMAL, ("anymind.yaml", "main.txt", "main/x"))


@pytest.mark.parametrize("taken", ["json", "os", "sys", "asyncio", "anymind_lite", "__main__"])
def test_module_that_python_would_not_find_is_refused(taken: str) -> None:
    files = (f"{taken}.py", f"{taken}/tools.py")

    for module in (taken, f"{taken}.tools"):
        assert "rename it" in refusal(f"name: a\nentrypoint: {module}:handle\n", files)


@pytest.mark.parametrize("entrypoint", ["class:handle", "a.import.b:handle", "main:def", "None:a"])
def test_keywords_are_refused(entrypoint: str) -> None:
    assert "is a Python keyword" in refusal(f"name: a\nentrypoint: {entrypoint}\n")


def test_worst_known_64_kib_take_seconds_at_most() -> None:
    began = time.monotonic()

    refusal("a:\n - " + "k: v\n" * 13_000)

    assert time.monotonic() - began < 5


def test_long_values_are_cut_in_messages() -> None:
    long = refusal(f"name: a\nentrypoint: {'x ' * 140}\n")

    assert "x x..." in long
    assert len(long) < 250
    assert "over 300 characters" in refusal(f"name: a\nentrypoint: {'x' * 20_000}:a\n")
    assert len(refusal(f"name: a\n1{'0' * 900}: b\n")) < 250


# --- fuzz ---

SECONDS_AN_INPUT = 5.0


HONEST = [MINIMAL, MINIMAL + "x: {a: [1, 'b', \"c\\x41\"], d: |\n  e\n}\nf: >-\n  g\n h: - i\n"]
SPICE = ["\t", "\n", "  ", ": ", "- ", "? ", "&a ", "*a", "!!", "!<x>", "%", "|", ">", "'", '"',
         "\\", "\\U00", "[", "]", "{", "}", "#", "---\n", "...\n", "<<", "=", "\0", "\ud800",
         "\ufeff", "\x85", "\u2028", "@", "`", "9" * 50, "%YAML 1.", "%TAG ! "]  # fmt: skip


def mutant(chance: random.Random) -> str | bytes:
    """Return a manifest that is a known one but for a few places."""
    seeds = HONEST * 5 + [
        text if isinstance(text, str) else text.decode("latin-1")
        for text, _ in [*BROKEN.values(), *FIELDS.values(), *LIMITS.values()]
        if len(text) < 3000
    ]
    made = list(chance.choice(seeds))
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at = chance.randrange(len(made) + 1)
        made[at : at + chance.choice([0, 0, 1, 5])] = chance.choice(
            [chance.choice(SPICE), chr(chance.randrange(256)), "".join(made[: at // 4 + 1])]
        )
    text = "".join(made)
    return text.encode("utf-8", "surrogatepass") if chance.random() < 0.3 else text


def read_or_refuse(text: str | bytes) -> bool:
    """Tell whether it was read; fail for any end but this or a refusal."""
    began = time.monotonic()
    manifest, refused = None, "anymind.yaml: "
    try:
        manifest = load_manifest(text, FILES)
    except BuildError as error:
        refused = str(error)
    assert time.monotonic() - began < SECONDS_AN_INPUT
    assert refused.startswith("anymind.yaml: ")
    assert refused.isprintable()
    if manifest is None:
        return False
    manifest.text.encode()
    "".join([manifest.name, manifest.description or "", manifest.framework or ""]).encode()
    assert manifest.limits.keys() <= LIMIT_KEYS.keys()
    assert manifest.concurrency in {None, *range(1, 257)}
    return True


def test_mutants_are_read_or_refused_and_nothing_else() -> None:
    chance = random.Random(20250101)
    assert sum(read_or_refuse(mutant(chance)) for _ in range(3000)) > 20
