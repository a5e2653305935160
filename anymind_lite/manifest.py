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
from collections.abc import Collection
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Manifest:
    """What an anymind.yaml says; `text` is the whole of it, without a byte order mark."""

    name: str
    entrypoint: str
    description: str | None
    framework: str | None
    text: str

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
    are required, `description` and `framework` are text if given, other keys are let be. The
    entrypoint's module is a file of the agent, under a name that Python has not taken. Raises
    `BuildError`.
    """
    decoded = _decode(text)
    fields = _compose_fields(decoded)
    return Manifest(
        name=_read_name(fields),
        entrypoint=_read_entrypoint(fields, files),
        description=_read_text(fields, "description"),
        framework=_read_text(fields, "framework"),
        text=decoded,
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
