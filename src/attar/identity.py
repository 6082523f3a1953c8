"""What a module, a function or a processor handed over in Python is, as a hash: code, weights and settings.

The same thing hashes alike in every process: no memory address, no file name and no line number goes in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType, MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from attar.hashing import hash_bytes, hash_folder, hash_value

Seen = dict[int, tuple[int, Any]]
"""Number and value by id: the value is held, so that its id is not given away again."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LIBRARIES = {"torch", "transformers", "timm", "numpy", "builtins"}


def hash_module(module: nn.Module) -> str:
    """Hash of a module: its classes' own code, its settings as printed, and every tensor in its state."""
    return hash_value(_module(module, {}))


def hash_function(function: Callable[..., Any]) -> str:
    """Hash of a function: its code, and the values and functions of its own package that it reads."""
    return hash_value(_identity(function, {}))


def hash_processor(processor: Any) -> str:
    """Hash of what a tokenizer or image processor saves of itself."""
    if not hasattr(processor, "save_pretrained"):
        return hash_value(_identity(processor, {}))
    with TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return hash_folder(Path(folder))


def _identity(value: Any, seen: Seen) -> Any:
    """A JSON-able value that tells `value` from others; what was `seen` is told by its number, so that cycles end."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if id(value) in seen:
        return ["seen", seen[id(value)][0]]
    seen[id(value)] = (len(seen), value)
    match value:
        case nn.Module():
            return _module(value, seen)
        case Tensor():
            return _tensor(value)
        case FunctionType():
            return _function(value, seen)
        case MethodType():
            return [_identity(value.__func__, seen), _identity(value.__self__, seen)]
        case partial():
            parts = cast("partial[Any]", value)
            return ["partial", *(_identity(part, seen) for part in (parts.func, parts.args, parts.keywords))]
        case list() | tuple():
            return [_identity(one, seen) for one in cast("Sequence[Any]", value)]
        case set() | frozenset():
            return sorted(repr(one) for one in cast("Sequence[Any]", value))
        case dict():
            pairs = cast("Mapping[Any, Any]", value)
            return [[repr(name), _identity(one, seen)] for name, one in pairs.items()]
        case _:
            return _object(value, seen)


def _object(value: Any, seen: Seen) -> Any:
    """A class or library object by name; an object of one's own by its call and its fields."""
    if isinstance(value, type) or _package(type(value)) in _LIBRARIES or not hasattr(value, "__dict__"):
        return _ADDRESS.sub("", repr(value))
    call = type(value).__call__ if callable(value) else None
    return [type(value).__qualname__, _identity(call, seen), _identity(vars(value), seen)]


def _module(module: nn.Module, seen: Seen) -> Any:
    own = {type(part) for part in module.modules() if _package(type(part)) not in _LIBRARIES}
    codes = [_identity(kind.forward, seen) for kind in sorted(own, key=lambda kind: kind.__qualname__)]
    state = module.state_dict()
    tensors = [[name, _identity(state[name], {})] for name in sorted(state)]
    return [type(module).__qualname__, _ADDRESS.sub("", repr(module)), codes, tensors]


def _tensor(tensor: Tensor) -> list[Any]:
    plain = tensor.detach().cpu().contiguous()
    return [str(plain.dtype), list(plain.shape), hash_bytes(plain.reshape(-1).view(torch.uint8).numpy().tobytes())]


def _function(function: FunctionType, seen: Seen) -> list[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if not _empty(cell)]
    names = sorted(_names(function.__code__) & function.__globals__.keys())
    read = [[name, _identity(value, seen)] for name in names if _counts(value := function.__globals__[name], function)]
    given = [_identity(part, seen) for part in (function.__defaults__, function.__kwdefaults__, cells)]
    return [function.__qualname__, _code(function.__code__), given, read]


def _counts(value: Any, reader: FunctionType) -> bool:
    """Does a global that `reader` reads shape what it does? Data and functions of its own package do."""
    if isinstance(value, FunctionType):
        return _package(value) == _package(reader)
    return isinstance(value, bool | int | float | str | tuple | list | dict | Tensor | partial)


def _code(code: CodeType) -> list[Any]:
    constants = [
        _code(one) if isinstance(one, CodeType) else sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)
        for one in code.co_consts
    ]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _names(code: CodeType) -> set[str]:
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return set(code.co_names).union(*inner)


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", None) or "").split(".")[0]


def _empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (read to see whether it is there)
    except ValueError:
        return True
    return False
