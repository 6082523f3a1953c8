"""The header of a GGUF file, each of its counts held against the file's size before it is believed.

Little-endian, versions 2 and 3, as `gguf.GGUFReader` reads them: magic, version, counts of tensors and of keys; the
keys with their values; name, shape, type and offset of each tensor; padding; the weights.
This file owns the package `gguf` for those who read.
"""

from __future__ import annotations

import importlib
import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from attar.errors import MissingExtra, TeacherError

_MAGIC, _VERSIONS, _ALIGNMENT, _MOST_DIMENSIONS = b"GGUF", (2, 3), 32, 4
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Value types of fixed size, by number, as `struct` spells them."""
_LEAST_KEY, _LEAST_TENSOR = 13, 32
"""Bytes that a key with its value, and the entry of a tensor, take at least."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where it lies and how it is stored."""

    shape: tuple[int, ...]
    """Outermost dimension first, as torch has it."""
    kind: int
    """Number of a `gguf.GGMLQuantizationType`."""
    start: int
    """First byte in the file."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Header:
    """All that a GGUF file says before its weights begin."""

    file: Path
    values: dict[str, Any]
    """Numbers, booleans, texts and lists of these, by key."""
    tensors: dict[str, Entry]

    @property
    def architecture(self) -> str:
        """Name of the model's architecture in llama.cpp's spelling, such as "llama"."""
        return str(self.values["general.architecture"])

    def own(self, key: str, default: Any = None) -> Any:
        """The value of ARCHITECTURE.key."""
        return self.values.get(f"{self.architecture}.{key}", default)


def package(purpose: str) -> Any:
    """The package `gguf`. Raises MissingExtra."""
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise MissingExtra("gguf", "lm", purpose) from error


def damaged(file: Path, reason: str) -> TeacherError:
    """The error for a file that is not what it should be."""
    return TeacherError(
        f"{file}: this GGUF file cannot be read: {reason}. Fetch it again, and compare its size and checksum with the "
        "source's."
    )


def read_header(file: Path) -> Header:
    """Read keys and tensor entries; no weight is touched, and nothing larger than the file is ever allocated.

    Raises TeacherError for a file that is absent, cut short, malformed, big-endian or one part of several, and
    MissingExtra.
    """
    sizes = package("Reading a GGUF file").GGML_QUANT_SIZES
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _read(_Cursor(file, data), {int(kind): size for kind, size in sizes.items()})
    except OSError as error:
        raise TeacherError(f"{file}: cannot be opened ({error.strerror or error}). Correct the path.") from None
    except ValueError as error:  # an empty file cannot be mapped; a text may be no UTF-8
        raise damaged(file, str(error)) from None
    parts = header.values.get("split.count", 1)
    if parts != 1:
        raise TeacherError(
            f"{file}: this is one of {parts} parts of a model. Join them first: llama-gguf-split --merge FIRST OUT."
        )
    return header


class _Cursor:
    """A place in the file that never leaves it."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file, self.data, self.at = file, data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Values of fixed size, as `struct` spells them."""
        start = self.at
        self.skip(struct.calcsize(f"<{form}"), "a number")
        return struct.unpack_from(f"<{form}", self.data, start)

    def number(self, form: str) -> Any:
        return self.numbers(form)[0]

    def text(self) -> str:
        length = self.number("Q")
        start = self.at
        self.skip(length, "a text")
        return self.data[start : self.at].decode()

    def count(self, count: int, least: int, what: str) -> range:
        """`count` things of `least` bytes or more each, if there is room for so many."""
        if count * least > len(self.data) - self.at:
            raise damaged(self.file, f"it claims {count} {what}, more than its {len(self.data)} bytes can hold")
        return range(count)

    def skip(self, size: int, what: str) -> None:
        if size > len(self.data) - self.at:
            raise damaged(self.file, f"{what} at byte {self.at} runs past its end at {len(self.data)}")
        self.at += size


def _read(cursor: _Cursor, sizes: dict[int, tuple[int, int]]) -> Header:
    file = cursor.file
    if (magic := cursor.data[:4]) != _MAGIC:
        raise damaged(file, f"it begins with {magic!r}, not with {_MAGIC!r}")
    cursor.at = 4
    version, tensors, keys = cursor.numbers("IQQ")
    if version not in _VERSIONS:
        raise damaged(file, f"its version is {version}, not 2 or 3 (or it is big-endian)")
    values: dict[str, Any] = {}
    for _ in cursor.count(keys, _LEAST_KEY, "keys"):
        key = cursor.text()
        if key in values:
            raise damaged(file, f'it has the key "{key}" twice')
        values[key] = _value(cursor, cursor.number("I"))
    if not isinstance(values.get("general.architecture"), str):
        raise damaged(file, "it names no general.architecture")
    alignment = values.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise damaged(file, f"its general.alignment is {alignment}, not a power of two")
    found: dict[str, Entry] = {}
    for _ in cursor.count(tensors, _LEAST_TENSOR, "tensors"):
        name, entry = _entry(cursor, sizes)
        if name in found:
            raise damaged(file, f'it has the tensor "{name}" twice')
        found[name] = entry
    begin = -(-cursor.at // alignment) * alignment
    for name, entry in found.items():
        if entry.start % alignment or begin + entry.start + entry.size > len(cursor.data):
            raise damaged(file, f'"{name}" lies beyond its {len(cursor.data)} bytes; it is cut short or altered')
    placed = {name: Entry(one.shape, one.kind, begin + one.start, one.size) for name, one in found.items()}
    return Header(file, values, placed)


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return cursor.text()
    if kind != _ARRAY:
        raise damaged(cursor.file, f"a value has the unknown type {kind}")
    inner, count = cursor.numbers("IQ")
    if inner == _STRING:
        return [cursor.text() for _ in cursor.count(count, 8, "texts")]
    if inner not in _SCALARS:
        raise damaged(cursor.file, f"a list has the unknown type {inner}")
    cursor.count(count, struct.calcsize(f"<{_SCALARS[inner]}"), "numbers")
    return list(cursor.numbers(f"{count}{_SCALARS[inner]}"))


def _entry(cursor: _Cursor, sizes: dict[int, tuple[int, int]]) -> tuple[str, Entry]:
    """One tensor; its start is counted from where the weights begin."""
    name, dimensions = cursor.text(), cursor.number("I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise damaged(cursor.file, f'"{name}" has {dimensions} dimensions')
    shape = cursor.numbers(f"{dimensions}Q")[::-1]
    kind, start = cursor.numbers("IQ")
    if kind not in sizes:
        raise damaged(cursor.file, f'"{name}" has the unknown type {kind}; pip install -U gguf may know it')
    block, width = sizes[kind]
    if min(shape) < 1 or shape[-1] % block:
        raise damaged(cursor.file, f'"{name}" has the shape {shape}, which its type does not allow')
    return name, Entry(shape, kind, start, prod(shape) // block * width)
