"""Recipes as YAML text: YAML is data. No tags, no aliases, no import paths, no interpolation.

Scalars follow YAML 1.2 (`1e-4` is a number, `010` is ten, a date is text) with two habits kept: `30_000` is a number,
and an unquoted `on`, `off`, `yes` or `no` is a `Word`: true or false where a switch is expected, and text elsewhere (a
label may be called "no"). Keys are always text. Every problem of a file is collected, not just the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, cast

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.events import AliasEvent, NodeEvent, ScalarEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from attar.recipe.places import Path, Place, Places, dotted

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
_TAG = "tag:yaml.org,2002:"
_STR, _NULL, _BOOL, _INT, _FLOAT, _WORD = (f"{_TAG}{name}" for name in ("str", "null", "bool", "int", "float", "word"))
_LONGEST_NUMBER = 64
WORDS = {"on": True, "off": False, "yes": True, "no": False}


class Word(str):
    """An unquoted on, off, yes or no: a switch where one is expected, else text."""

    @property
    def switch(self) -> bool:
        """What it means as a switch."""
        return WORDS[self.lower()]


@dataclass
class Parsed:
    """What a text holds. `data` is None where it could not be read at all; `problems` then says why."""

    data: Any
    places: Places
    problems: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Line and message of each problem."""


class _Resolver(BaseResolver):
    """YAML 1.2 core schema, thousands with underscores, and words."""


for _tag, _pattern, _first in (
    (_NULL, r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_BOOL, r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (_WORD, r"^(?:on|On|ON|off|Off|OFF|yes|Yes|YES|no|No|NO)$", list("oOyYnN")),
    (_INT, r"^[-+]?(?:[0-9]+|[0-9]{1,3}(?:_[0-9]{3})+)$", list("-+0123456789")),
    (_INT, r"^0(?:o[0-7]+|x[0-9a-fA-F]+)$", ["0"]),
    (_FLOAT, r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    (_FLOAT, r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", list("-+.")),
):
    _Resolver.add_implicit_resolver(_tag, re.compile(_pattern), _first)


class _Composer(Reader, Scanner, Parser, Composer, SafeConstructor, _Resolver):
    """Text to nodes. Aliases and tags are noted and left out, so that one pass finds everything."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        _Resolver.__init__(self)
        self.depth = 0
        self.refused: list[tuple[int, str]] = []

    def compose_node(self, parent: Node | None, index: Any) -> Node:
        """The next node, free of aliases and tags."""
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            self.get_event()
            self.refused.append((line, f'the alias "*{event.anchor}" is not allowed. Write the value out.'))
            return ScalarNode(_NULL, "", event.start_mark, event.end_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_DEPTH} levels of nesting", problem_mark=event.start_mark
            )
        if isinstance(event, NodeEvent):
            tag = cast("str | None", getattr(event, "tag", None))
            if tag is not None:
                shown = tag.replace(_TAG, "!!")
                self.refused.append(
                    (line, f'the tag "{shown}" is not allowed: a recipe is plain data. Remove the tag.')
                )
                cast("Any", event).tag = None
                if isinstance(event, ScalarEvent):
                    event.implicit = (event.style is None, event.style is not None)
            event.anchor = None
        node = cast("Node", super().compose_node(parent, index))  # pyright: ignore[reportArgumentType]
        self.depth -= 1
        return node


def parse(text: str, origin: str) -> Parsed:
    """Plain data of one YAML document, the place of each value, and every problem (`origin` names the file)."""
    try:
        composer = _Composer(text)
        node = composer.get_single_node()
    except yaml.MarkedYAMLError as error:
        return Parsed(None, Places(origin), [_syntax(error, origin)])
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"holds a character that YAML does not allow (U+{int(error.character):04X}). Is it a text file?"
        return Parsed(None, Places(origin), [(line, f"{origin}:{line}  {message}")])
    problems = [(line, f"{origin}:{line}  {message}") for line, message in composer.refused]
    known: dict[Path, Place] = {}
    data = None if node is None else _Builder(origin, composer, known, problems).build(node, ())
    return Parsed(data, Places(origin, known), problems)


def _syntax(error: yaml.MarkedYAMLError, origin: str) -> tuple[int, str]:
    mark = error.problem_mark or error.context_mark
    line = 1 if mark is None else mark.line + 1
    what = ", ".join(part for part in (error.context, error.problem) if part)
    if "'\\t'" in what:
        what += ". Indent with spaces, not tabs"
    elif "mapping values are not allowed" in what:
        what += ". A text that holds a colon goes in quotes; sections are indented alike"
    snippet = None if mark is None else mark.get_snippet(indent=4)
    return line, f"{origin}:{line}  not valid YAML: {what}." + (f"\n{snippet}" if snippet else "")


@dataclass
class _Builder:
    """Nodes to plain data, with places."""

    origin: str
    composer: _Composer
    known: dict[Path, Place]
    problems: list[tuple[int, str]]

    def build(self, node: Node, path: Path) -> Any:
        self.known.setdefault(path, self.place(node))
        match node:
            case MappingNode():
                return self.mapping(node, path)
            case SequenceNode():
                items = cast("list[Node]", node.value)
                return [self.build(item, (*path, position)) for position, item in enumerate(items)]
            case _:
                return _scalar(self.composer, cast("ScalarNode", node))

    def mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in cast("list[tuple[Node, Node]]", node.value):
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self.problems.append((line, f"{self.origin}:{line}  a key must be text, not a list or a section."))
                continue
            key = str(key_node.value)
            inner = (*path, key)
            if key in data:
                first = self.known[inner].line
                message = f"stands twice (first on line {first}). Remove one of them."
                self.problems.append((line, f"{self.origin}:{line}  {dotted(inner)}: {message}"))
                _Builder(self.origin, self.composer, {}, self.problems).build(value_node, inner)
                continue
            self.known[inner] = self.place(key_node)
            data[key] = self.build(value_node, inner)
        return data

    def place(self, node: Node) -> Place:
        line = node.start_mark.line + 1
        return Place(f"{self.origin}:{line}", line)


def _scalar(composer: _Composer, node: ScalarNode) -> Any:
    text = str(node.value)
    if node.tag == _WORD:
        return Word(text)
    if node.tag == _INT and len(text) <= _LONGEST_NUMBER:
        digits = text.replace("_", "")
        return int(digits, 0) if digits[:2] in ("0x", "0o") else int(digits)
    if node.tag == _FLOAT:
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if node.tag == _BOOL:
        return text.lower() == "true"
    return None if node.tag == _NULL else text


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `parse` would not read back as text."""

    yaml_implicit_resolvers = _Resolver.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out in full."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Text; in double quotes where it holds rare line breaks, which YAML would fold."""
        style = '"' if any(c in text for c in "\r\x85\u2028\u2029") else None
        return self.represent_scalar(_STR, text, style)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        super().increase_indent(flow, False)


_Dumper.add_representer(str, _Dumper.represent_text)


def write(data: dict[str, Any]) -> str:
    """YAML text of plain data, in the order given; `parse` reads the same data back."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))
