"""Reads anymind.yaml, the file in which an agent says how it is called.

Every byte read here is hostile. PyYAML only scans and composes: no value is ever constructed, so
no tag, timestamp, huge number or merge key does anything. Aliases, anchors, tags, repeated keys and
deep nesting are refused, also under keys that are not used. Every fault is a `BuildError` that
starts with "anymind.yaml:", names the line where there is one, and says what to write instead. The
module needs no server object, so that a process with few rights can run it.
"""

import difflib
import keyword
import re
import sys
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import yaml

from anymind_lite.errors import BuildError, quoted

MAX_MANIFEST_BYTES = 65536

_MAX_DEPTH = 20
_MAX_NAME_CHARS = 200
_MAX_ENTRYPOINT_CHARS = 300
_MAX_LISTED_FILES = 20
_MAX_COMPARED_MODULES = 500  # difflib takes up to 0.1 ms for each.

_ENTRYPOINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_EXAMPLE = "main:handle"
# A child imports these, or may have, before it looks into the agent's folder.
_TAKEN_MODULES = sys.stdlib_module_names | {"anymind_lite", "__main__"}

_TEXT_TAG = "tag:yaml.org,2002:str"
_NULL_TAG = "tag:yaml.org,2002:null"
_TRUTH_TAG = "tag:yaml.org,2002:bool"
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@dataclass(frozen=True)
class LimitKey:
    """What a key may say, from `least` to `most`; a whole number if `is_whole`."""

    least: float
    most: int
    is_whole: bool = True


# Every key below `limits`. What a server allows is less, and is not known here.
LIMIT_KEYS: Mapping[str, LimitKey] = {
    "timeout_seconds": LimitKey(0.1, 3600, is_whole=False),
    "memory_mb": LimitKey(16, 1 << 20),
    "address_space_mb": LimitKey(64, 1 << 20),
    "file_mb": LimitKey(1, 1 << 20),
    "scratch_mb": LimitKey(1, 1 << 20),
    "scratch_files": LimitKey(16, 1_000_000),
    "open_files": LimitKey(16, 65536),
    "processes": LimitKey(1, 65536),
}
CONCURRENCY = LimitKey(1, 256)


@dataclass(frozen=True)
class Manifest:
    """What an anymind.yaml says; `text` is the whole of it, without a byte order mark.

    `limits` holds those of `LIMIT_KEYS` that it asks for; `allows_processes` is its `subprocess`;
    `concurrency` is how many executions of the agent may run at once, None for any number.
    """

    name: str
    entrypoint: str
    description: str | None
    framework: str | None
    text: str
    limits: Mapping[str, float] = field(default_factory=dict)
    allows_processes: bool = False
    concurrency: int | None = None

    @property
    def module(self) -> str:
        """The dotted name of the module to import."""
        return self.entrypoint.partition(":")[0]

    @property
    def function(self) -> str:
        """The name of the function to call in the module."""
        return self.entrypoint.partition(":")[2]


def load_manifest(text: str | bytes, files: Collection[str]) -> Manifest:
    """Return the checked manifest of an agent whose files are `files`, named from its root.

    `text` is UTF-8 of at most 64 KiB. `name` (1 to 200 characters on one line) and `entrypoint`
    are required, `description` and `framework` are text if given. `limits` is a mapping of numbers,
    `subprocess` is true or false, `concurrency` is a number, and `network` asks for nothing. Other
    keys are let be. The entrypoint's module is a file of the agent, under a name that Python has
    not taken. Raises `BuildError`.
    """
    decoded = _decode(text)
    fields = _compose_fields(decoded)
    _refuse_network(fields)
    return Manifest(
        name=_read_name(fields),
        entrypoint=_read_entrypoint(fields, files),
        description=_read_text(fields, "description"),
        framework=_read_text(fields, "framework"),
        text=decoded,
        limits=_read_limits(fields),
        allows_processes=_read_truth(fields, "subprocess"),
        concurrency=_read_concurrency(fields),
    )


def _fault(what: str, mark: yaml.Mark | None = None) -> BuildError:
    line = f"line {mark.line + 1}: " if mark else ""
    return BuildError(f"anymind.yaml: {line}{what}.")


# --- YAML ---


def _decode(text: str | bytes) -> str:
    try:
        encoded = text.encode() if isinstance(text, str) else text
        if len(encoded) > MAX_MANIFEST_BYTES:
            raise _fault(f"it is over {MAX_MANIFEST_BYTES // 1024} KiB; shorten it")
        return encoded.decode("utf-8-sig")
    except UnicodeError:
        raise _fault("it is not UTF-8; save it in that encoding") from None


def _compose_fields(text: str) -> dict[str, yaml.Node]:
    """Return the top level of a YAML document by key."""
    root = _compose(text)
    if root is None:
        raise _fault(f"it is empty; write a name and an entrypoint, such as {_EXAMPLE}")
    if not isinstance(root, yaml.MappingNode):
        raise _fault("it is not a mapping; write lines such as name: my agent", root.start_mark)
    fields: dict[str, yaml.Node] = {}
    for key, value in root.value:
        if key.tag != _TEXT_TAG:
            shown = quoted(key.value)
            raise _fault(f"the key {shown} is not text; put it in quotes", key.start_mark)
        fields[key.value] = value
    return fields


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _BoundedLoader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _fault(_syntax_fault(error), error.problem_mark or error.context_mark) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        raise _fault(
            f"the character {quoted(chr(error.character))} on line {before.count(chr(10)) + 1} "
            "is not allowed in YAML; remove it"
        ) from None
    except (ValueError, OverflowError):
        # PyYAML passes escapes such as "\UFFFFFFFF" to chr() and %YAML versions to int() unchecked.
        raise _fault("it holds an escape or a directive with a number out of range") from None
    except RecursionError:
        raise _fault("it is nested too deep; flatten it") from None


def _syntax_fault(error: yaml.MarkedYAMLError) -> str:
    problem = quoted(error.problem or "it is not YAML", 200)[1:-1]
    if "another document" in problem:
        return "a second document starts here; keep one"
    if "\\t" in problem:
        return "a tab stands where YAML takes none; use spaces"
    return f"{problem}; mend the YAML here or in the line before"


class _BoundedLoader(yaml.SafeLoader):
    """Composes plain trees of bounded depth; text that grows or acts when loaded is refused."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # The stubs leave it open.
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _fault(
                "anchors (&) and aliases (*) are not taken; repeat the text or put it in quotes",
                event.start_mark,
            )
        if getattr(event, "tag", None) is not None:
            raise _fault(
                f"the tag {quoted(event.tag)} is not taken; remove it or put the text in quotes",
                event.start_mark,
            )
        if self._depth >= _MAX_DEPTH:
            raise _fault(f"it is nested over {_MAX_DEPTH} deep; flatten it", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault("a list or a mapping cannot be a key; write text", key.start_mark)
            if (key.tag, key.value) in seen:
                raise _fault(
                    f"the key {quoted(key.value)} is given twice; remove one", key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


# --- fields ---


def _read_text(fields: dict[str, yaml.Node], key: str) -> str | None:
    """Return a field's text; None where it is missing or null."""
    node = fields.get(key)
    if node is None or node.tag == _NULL_TAG:
        return None
    if node.tag != _TEXT_TAG:
        raise _fault(f"{key} is not text; write it on the line, in quotes", node.start_mark)
    text: str = node.value
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cs"} and char not in "\n\t":
            raise _fault(f"{key} holds the character {quoted(char)}; remove it", node.start_mark)
    return text


def _read_required(fields: dict[str, yaml.Node], key: str, example: str) -> str:
    text = (_read_text(fields, key) or "").strip()
    if not text:
        mark = fields[key].start_mark if key in fields else None
        raise _fault(f"{key} is missing; write a line such as {key}: {example}", mark)
    return text


def _read_name(fields: dict[str, yaml.Node]) -> str:
    name = _read_required(fields, "name", "my agent")
    mark = fields["name"].start_mark
    if len(name) > _MAX_NAME_CHARS:
        raise _fault(f"name is over {_MAX_NAME_CHARS} characters; shorten it", mark)
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in name):
        raise _fault("name is more than one line or holds a tab; write it on one line", mark)
    return name


def _read_entrypoint(fields: dict[str, yaml.Node], files: Collection[str]) -> str:
    entrypoint = _read_required(fields, "entrypoint", _EXAMPLE)
    mark = fields["entrypoint"].start_mark
    if len(entrypoint) > _MAX_ENTRYPOINT_CHARS:
        raise _fault(f"entrypoint is over {_MAX_ENTRYPOINT_CHARS} characters; shorten it", mark)
    module = entrypoint.partition(":")[0]
    path = module.replace(".", "/")
    is_there = f"{path}.py" in files or f"{path}/__init__.py" in files
    # "main.py:handle" has the form, but it is a path that somebody wrote.
    if _ENTRYPOINT.fullmatch(entrypoint) is None or (module.endswith(".py") and not is_there):
        suggested = _suggested_entrypoint(entrypoint, files)
        raise _fault(
            f"entrypoint {quoted(entrypoint)} is not of the form module.path:function; "
            f"write {suggested}",
            mark,
        )
    _refuse_taken_names(entrypoint, mark)
    if not is_there:
        raise _fault(
            f"there is no {quoted(f'{path}.py')} for entrypoint {quoted(entrypoint)}; "
            f"{_missing_module_mend(entrypoint, files)}",
            mark,
        )
    return entrypoint


def _refuse_taken_names(entrypoint: str, mark: yaml.Mark) -> None:
    """Refuse names that cannot be imported, or not from the agent's files."""
    for part in re.split("[.:]", entrypoint):
        if keyword.iskeyword(part):
            raise _fault(f"{quoted(part)} in entrypoint is a Python keyword; rename it", mark)
    top = re.split("[.:]", entrypoint, maxsplit=1)[0]
    if top in _TAKEN_MODULES:
        raise _fault(
            f"the module {quoted(top)} in entrypoint would be hidden by Python's own "
            "module of that name; rename it",
            mark,
        )


# --- what an agent asks for ---


def _refuse_network(fields: dict[str, yaml.Node]) -> None:
    """Refuse to promise a network: what cannot be kept fails the build."""
    node = fields.get("network")
    if node is None or node.tag == _NULL_TAG:
        return
    is_off = node.tag == _TRUTH_TAG and not _is_true(node)
    is_none = node.tag == _TEXT_TAG and node.value == "none"
    is_empty = isinstance(node, yaml.CollectionNode) and not node.value
    if not (is_off or is_none or is_empty):
        raise _fault("network is not offered: agents have none; remove the key", node.start_mark)


def _read_truth(fields: dict[str, yaml.Node], key: str) -> bool:
    """Return a field that is true or false; false where it is missing or null."""
    node = fields.get(key)
    if node is None or node.tag == _NULL_TAG:
        return False
    if node.tag != _TRUTH_TAG:
        raise _fault(f"{key} is not true or false; write one, without quotes", node.start_mark)
    return _is_true(node)


def _is_true(node: yaml.Node) -> bool:
    return str(node.value).lower() in ("true", "yes", "on")


def _read_limits(fields: dict[str, yaml.Node]) -> Mapping[str, float]:
    """Return the numbers below `limits` by key; none where it is missing or null."""
    node = fields.get("limits")
    if node is None or node.tag == _NULL_TAG:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise _fault(
            "limits is not a mapping; write lines such as timeout_seconds: 30 below it",
            node.start_mark,
        )
    limits = {key.value: _read_limit(key, value) for key, value in node.value}
    memory, space = limits.get("memory_mb", 0), limits.get("address_space_mb")
    if space is not None and space < memory:
        what = "limits.address_space_mb is less than limits.memory_mb; raise it, or leave it out"
        raise _fault(what, node.start_mark)
    return limits


def _read_limit(key: yaml.Node, node: yaml.Node) -> float:
    known = LIMIT_KEYS.get(key.value) if key.tag == _TEXT_TAG else None
    if known is None:
        raise _fault(_unknown_limit(key.value), key.start_mark)
    return _read_number_of(f"limits.{key.value}", node, known)


def _read_concurrency(fields: dict[str, yaml.Node]) -> int | None:
    """Return how many may run at once; None where it is missing or null."""
    node = fields.get("concurrency")
    if node is None or node.tag == _NULL_TAG:
        return None
    return int(_read_number_of("concurrency", node, CONCURRENCY))


def _read_number_of(name: str, node: yaml.Node, known: LimitKey) -> float:
    number = _read_number(node, known)
    if number is None:
        kind = "a whole number" if known.is_whole else "a number"
        raise _fault(
            f"{name} is not {kind} from {known.least:g} to {known.most}; write one in plain digits",
            node.start_mark,
        )
    return number


def _read_number(node: yaml.Node, known: LimitKey) -> float | None:
    """Return a number in plain digits that is in its range, else None.

    YAML itself would also take 0x10, 1_000, 1:30, 010 (an eight) and .inf.
    """
    form = r"0|[1-9][0-9]{0,8}" if known.is_whole else r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?"
    if node.tag not in _NUMBER_TAGS or re.fullmatch(form, node.value) is None:
        return None
    number = int(node.value) if node.value.isdigit() else float(node.value)
    return number if known.least <= number <= known.most else None


def _unknown_limit(key: str) -> str:
    near = difflib.get_close_matches(key[:_MAX_NAME_CHARS].lower(), LIMIT_KEYS, n=1)
    guess = f"did you mean {near[0]}? There are" if near else "there are"
    return f"limits has no {quoted(key)}; {guess} {', '.join(LIMIT_KEYS)}"


# --- suggestions ---


def _missing_module_mend(entrypoint: str, files: Collection[str]) -> str:
    sources = sorted(name for name in files if name.endswith(".py"))
    if not sources:
        return "add it, since the archive holds no .py files"
    listed = ", ".join(quoted(name) for name in sources[:_MAX_LISTED_FILES])
    more = len(sources) - _MAX_LISTED_FILES
    tail = f" and {more} more" if more > 0 else ""
    suggested = _suggested_entrypoint(entrypoint, files)
    return f"write {suggested}, or add it; the archive holds {listed}{tail}"


def _suggested_entrypoint(entrypoint: str, files: Collection[str]) -> str:
    """Guess what was meant: a path, dots all the way, no function, a wrong case or folder."""
    modules = _modules(files)
    path, _, function = entrypoint.partition(":")
    wanted = re.sub(r"[/\\]+", ".", path.strip().removesuffix(".py")).strip(".")
    function = function.strip().removesuffix("()")
    above, _, last = wanted.rpartition(".")
    if not function and above in modules:
        wanted, function = above, last
    if _ENTRYPOINT.fullmatch(f"x:{function}") is None:
        function = "handle"
    return f"{_nearest(wanted, modules)}:{function}"


def _modules(files: Collection[str]) -> list[str]:
    """Return the dotted names of the files that an entrypoint can name."""
    dotted = (
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in sorted(files)
        if name.endswith(".py")
    )
    fitting = (name for name in dotted if _MODULE.fullmatch(name) and not _is_taken(name))
    return list(islice(fitting, _MAX_COMPARED_MODULES))


def _is_taken(module: str) -> bool:
    parts = module.split(".")
    return parts[0] in _TAKEN_MODULES or any(keyword.iskeyword(part) for part in parts)


def _nearest(wanted: str, modules: list[str]) -> str:
    """Return the module that was most likely meant; the example's where there is none."""
    last = wanted.rpartition(".")[2].casefold()
    same = [name for name in modules if name.casefold() == wanted.casefold()]
    same_last = [name for name in modules if name.rpartition(".")[2].casefold() == last]
    inside = [name for name in modules if name.startswith(f"{wanted}.")]
    alike = difflib.get_close_matches(wanted, modules, n=1)
    usual = [name for name in ("main", "agent", "app") if name in modules]
    return next(iter([*same, *same_last, *inside, *alike, *usual, *modules]), "main")
