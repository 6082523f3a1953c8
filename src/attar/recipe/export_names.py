"""Exports by their short names, as the command line takes them: `onnx-int8,executorch,page`."""

from __future__ import annotations

from attar.errors import RecipeError

PAGE = "page"
_USUAL = {"web": "int8", "executorch": "fp32", "coreml": "fp32"}
"""Precision of a kind that is named alone."""


def named_exports(names: str) -> tuple[list[tuple[str, str]], bool]:
    """Kinds and precisions, and whether a copy of the page is asked for too. Raises RecipeError."""
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",")))
    found: list[tuple[str, str]] = []
    for name in (name for name in wanted if name != PAGE):
        kind, _, precision = name.partition("-")
        if not (precision or kind in _USUAL):
            raise RecipeError(
                f'--to: "{name}" names no export. Write KIND-PRECISION (onnx-int8, openvino-int8, litert-fp32), '
                f"{', '.join(_USUAL)} or {PAGE}."
            )
        found.append((kind, precision or _USUAL[kind]))
    return list(dict.fromkeys(found)), PAGE in wanted
