"""Cutting a student out of a teacher: fewer layers, a narrower residual stream, fewer tokens.

The width is cut by a basis P [H_t, H_s] with orthonormal columns: the leading principal components of the teacher's
token embeddings, weighted by how often the data uses each token. Every tensor that reads or writes the residual stream
is projected through P; heads and feed-forward neurons are chosen by the norm of what they write; norms start fresh,
since a projected stream has other scales. Where the width stays, weights are copied as they are. (PCA of embeddings:
as in Model2Vec and others; the projection of whole layers follows the idea of SliceGPT, arXiv:2401.15024.)

Shape letters: V tokens, H width, I feed-forward width, A heads, L layers; _t teacher, _s student.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attar.errors import PlanError

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "vit", "deit")

_LAYER = re.compile(r"^((?:encoder\.|transformer\.)?layers?\.)(\d+)\.(.+)$")
_QKV = re.compile(r"(?:self\.(?:query|key|value)|[qkv]_lin|[qkv]_proj)\.(?:weight|bias)$")
_VALUE = re.compile(r"(?:self\.value|v_lin|v_proj)\.weight$")
_OUT = re.compile(r"(?:attention\.output\.dense|out_lin|o_proj)\.(?:weight|bias)$")
_UP = re.compile(r"(?:intermediate\.dense|ffn\.lin1|mlp\.fc1)\.(?:weight|bias)$")
_DOWN = re.compile(r"(?:^output\.dense|ffn\.lin2|mlp\.fc2)\.(?:weight|bias)$")
_NORM = re.compile(r"(?:layer_?norm|LayerNorm)(?:_before|_after)?\.(?:weight|bias)$", re.IGNORECASE)

Axis = Literal["width", "heads", "neurons", "tokens", "positions", "same"]


@dataclass(frozen=True)
class Shape:
    """The sizes that a cut changes."""

    layers: tuple[int, ...]
    width: int
    heads: int
    intermediate: int


def even_layers(count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers, evenly spaced, the last one always among them."""
    if not 1 <= count <= total:
        raise PlanError(f"student.layers: {count} layers cannot be cut from a teacher with {total}. Give 1 to {total}.")
    return tuple(round((i + 1) * total / count) - 1 for i in range(count))


def copy_cut(teacher: nn.Module, student: nn.Module, layers: tuple[int, ...], kept: list[int] | None,
             counts: list[int] | None, head_size: int, *, embeddings_only: bool) -> dict[str, Any]:  # fmt: skip
    """Fill the student's body in place from the teacher's; both are bodies without task heads.

    `kept` are the teacher's token ids that the student keeps, in its order (None: all), `counts` how often each is
    used. `head_size` is the width of one head of the teacher. Returns what was copied, for the report.
    """
    source = {name: value.detach().float() for name, value in teacher.state_dict().items()}
    target = student.state_dict()
    basis, share = _basis(source, _width(target), kept, counts)
    cut = _Cut(source, kept, basis, head_size)
    copied = 0
    for name, old in target.items():
        found = _LAYER.match(name)
        if found and embeddings_only:
            continue
        origin = f"{found[1]}{layers[int(found[2])]}.{found[3]}" if found else name
        if origin not in source or not old.is_floating_point() or (embeddings_only and "embeddings" not in name):
            continue
        if basis is not None and _NORM.search(name):
            continue
        new = cut.tensor(origin, tuple(old.shape))
        if new.shape == old.shape:
            old.copy_(new)
            copied += 1
    return {
        "layers": [] if embeddings_only else list(layers),
        "tensors_copied": copied,
        "tensors": len(target),
        "embedding_variance_kept": round(share, 4),
    }


def _width(state: dict[str, Tensor]) -> int:
    for name in ("embeddings.word_embeddings.weight", "embeddings.cls_token"):
        if name in state:
            return state[name].shape[-1]
    raise PlanError(f"student.kind: from_teacher knows {', '.join(FAMILIES)}. Use from_config or pretrained.")


def _basis(
    source: dict[str, Tensor], width: int, kept: list[int] | None, counts: list[int] | None
) -> tuple[Tensor | None, float]:
    """P [H_t, H_s] and the share of (weighted) embedding variance that it keeps; None where the width stays."""
    full = _width(source)
    if width == full:
        return None, 1.0
    if width > full:
        raise PlanError(f"student.hidden_size: {width} is wider than the teacher's {full}. Give at most {full}.")
    words = source.get("embeddings.word_embeddings.weight")
    if words is None:
        rows = source["embeddings.patch_embeddings.projection.weight"].flatten(1).T
        weights = torch.ones(len(rows), dtype=torch.float64)
    else:
        rows = words if kept is None else words[kept]
        weights = torch.tensor(counts, dtype=torch.float64).add(1).sqrt() if counts else torch.ones(len(rows)).double()
    points = rows.double()
    weights = (weights / weights.sum()).unsqueeze(1)
    centred = points - (weights * points).sum(0)
    values, vectors = torch.linalg.eigh((weights * centred).T @ centred)
    share = float(values[-width:].sum() / values.sum())
    return vectors[:, -width:].flip(-1).float().contiguous(), share


class _Cut:
    """Turns one tensor of the teacher into the student's."""

    def __init__(self, source: dict[str, Tensor], kept: list[int] | None, basis: Tensor | None, head_size: int) -> None:
        self.source, self.kept, self.basis, self.head_size = source, kept, basis, head_size
        self.full = _width(source)

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        value = self.source[name]
        if name == "embeddings.word_embeddings.weight" and self.basis is not None:
            value = value - (value if self.kept is None else value[self.kept]).mean(0)
        for axis, (role, size) in enumerate(zip(self._roles(name, value), shape, strict=True)):
            value = self._apply(value, axis, role, size, name)
        return value

    def _roles(self, name: str, value: Tensor) -> tuple[Axis, ...]:
        inner = found[3] if (found := _LAYER.match(name)) else name
        pairs: list[tuple[bool, Axis, Axis]] = [
            (bool(_QKV.search(inner)), "heads", "width"),
            (bool(_OUT.search(inner)), "width", "heads"),
            (bool(_UP.search(inner)), "neurons", "width"),
            (bool(_DOWN.search(inner)), "width", "neurons"),
            (inner == "embeddings.word_embeddings.weight", "tokens", "width"),
            (inner == "embeddings.position_embeddings.weight", "positions", "width"),
        ]
        for matched, first, second in pairs:
            if matched:
                return (first, second)[: value.dim()]
        return tuple("width" if size == self.full else "same" for size in value.shape)

    def _apply(self, value: Tensor, axis: int, role: Axis, size: int, name: str) -> Tensor:
        match role:
            case "same":
                return value
            case "positions":
                return value.narrow(axis, 0, min(size, value.shape[axis]))
            case "tokens":
                return value if self.kept is None else value[self.kept]
            case "width":
                return value if self.basis is None else (value.movedim(axis, -1) @ self.basis).movedim(-1, axis)
            case "heads":
                return value.index_select(axis, self._best(name, size, self._head_norms(name)))
            case "neurons":
                return value.index_select(axis, self._best(name, size, self._neuron_norms(name)))

    def _best(self, name: str, size: int, norms: Tensor) -> Tensor:
        """The `size` entries of a layer's inner axis that write most, whole heads for heads, in their old order."""
        unit = self.head_size if norms.dim() == 2 else 1
        if size % unit:
            raise PlanError(
                f"student.heads: the inner width {size} is no multiple of the teacher's head size {unit}. "
                "Choose hidden_size as a multiple of it, or init: embeddings."
            )
        scores = norms.flatten(1).norm(dim=1) if norms.dim() == 2 else norms
        chosen = scores.topk(size // unit).indices.sort().values
        return (chosen.unsqueeze(1) * unit + torch.arange(unit)).flatten()

    def _head_norms(self, name: str) -> Tensor:
        """[A_t, head size]: norms of what each head's values write."""
        inner = self._layer(name)
        out = next(v for n, v in inner.items() if _OUT.search(n) and n.endswith("weight"))
        values = next(v for n, v in inner.items() if _VALUE.search(n))
        return (out.norm(dim=0) * values.norm(dim=1)).unflatten(0, (-1, self.head_size))

    def _neuron_norms(self, name: str) -> Tensor:
        """[I_t]: norms of what each feed-forward neuron writes."""
        inner = self._layer(name)
        down = next(v for n, v in inner.items() if _DOWN.search(n) and n.endswith("weight"))
        up = next(v for n, v in inner.items() if _UP.search(n) and n.endswith("weight"))
        return down.norm(dim=0) * up.norm(dim=1)

    def _layer(self, name: str) -> dict[str, Tensor]:
        """The tensors of the layer that a name belongs to, by their names within it."""
        layer = _LAYER.match(name)
        prefix = f"{layer[1]}{layer[2]}." if layer else ""
        return {n.removeprefix(prefix): v for n, v in self.source.items() if n.startswith(prefix)}
