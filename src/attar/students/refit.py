"""Refitting what reads an axis that has lost parts, so that it gives what it gave before as nearly as it can.

A linear map W reads inputs z [n]. Of these only u [s] is left: some of z as they are, or, behind an RMSNorm, some
channels of the residual stream normed among themselves. Least squares on real tokens gives R with z ~ u R, and the map
becomes W R^T: parts that are gone are said by those that stay, as far as these know of them. How far R may leave plain
copying is decided by ridge regression, site by site: fitted on every other row, judged by the map's output on the rest,
so that with few rows little or nothing is refitted. A norm's weights go into the maps that read it, and are one number
afterwards.

Shape letters: N rows, T tokens, R tokens that count, n inputs, s inputs that stay, o outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from attar.students.decoder import Batch, body_layers, head_weight, kept_tokens, last_states, only_asked

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridges that are tried, in units of the mean square of what stays; beside them, none of the parts that are gone."""


@dataclass
class Site:
    """One place where an axis is read, and the second moments of what is read there."""

    module: nn.Module
    """Whose input is read."""
    rows: tuple[int, ...]
    """Which inputs stay, ascending."""
    readers: tuple[str, ...]
    """Names of the weights [o, n] that read it."""
    norm: str | None = None
    """Name of the norm's weight [n] that stands before them, where `module` is a norm."""
    eps: float = 0.0
    moments: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    """u^T u [s, s] and u^T z [s, n] of each half of the rows, float64."""

    def watch(self, halves: Sequence[Tensor]) -> RemovableHandle:
        """Hook on until the handle is removed; `halves` are the tokens [N, T] of each half that count."""

        def hook(_: nn.Module, args: tuple[Any, ...], __: Any) -> None:
            self.moments = [self._grown(half, cast("Tensor", args[0])[kept]) for half, kept in enumerate(halves)]

        return self.module.register_forward_hook(hook)

    def _grown(self, half: int, states: Tensor) -> tuple[Tensor, Tensor]:
        z = states.double()
        u = z[:, list(self.rows)]
        if self.norm is not None:
            u, z = (part * (part.square().mean(-1, keepdim=True) + self.eps).rsqrt() for part in (u, z))
        new = u.T @ u, u.T @ z
        return (self.moments[half][0] + new[0], self.moments[half][1] + new[1]) if self.moments else new


def refit(model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site]) -> dict[str, Tensor]:
    """The readers' weights [o, s] and the norms' [s], by name, as precise as they were; the model is left as it was.

    A head that is tied to the embeddings is not refitted: the norm before it is scaled instead, so that the channels
    that stay come out of it as large as before, on average. Costs a pass a batch, and s (s + n) numbers a site, twice.
    """
    _measure(model, batches, sites)
    source = model.state_dict()
    tied = head_weight(model) is cast("PreTrainedModel", model).get_input_embeddings().weight
    found: dict[str, Tensor] = {}
    for site in sites:
        gram, cross = (torch.stack(halves).sum(0) for halves in zip(*site.moments, strict=True))
        plain = _plain(site.rows, gram, cross, normed=site.norm is not None)
        if site.norm is not None and tied and "lm_head.weight" in site.readers:
            gain = plain[0, site.rows[0]]
            found[site.norm] = source[site.norm][list(site.rows)] * gain.to(source[site.norm].dtype)
            continue
        before = torch.ones((), dtype=torch.float64) if site.norm is None else source[site.norm].double()
        unit = float(before.square().mean().sqrt()) or 1.0
        weights = {name: source[name].double() * before for name in site.readers}
        solution = plain + _solved(gram, cross, plain, _ridge(site, torch.cat(list(weights.values()))))
        for name, weight in weights.items():
            found[name] = (weight @ solution.T / unit).to(source[name].dtype)
        if site.norm is not None:
            found[site.norm] = torch.full_like(source[site.norm][: len(site.rows)], unit)
    return found


def _measure(model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site]) -> None:
    """Fill the sites' moments; every other row belongs to the second half, counted over all batches."""
    seen = 0
    with only_asked(model):
        for batch in batches:
            kept = kept_tokens(batch).to(head_weight(model).device)
            odd = (torch.arange(len(kept), device=kept.device) + seen) % 2 == 1
            halves = (kept & ~odd.unsqueeze(-1), kept & odd.unsqueeze(-1))
            seen += len(kept)
            handles: list[RemovableHandle] = []
            try:
                handles.extend(site.watch(halves) for site in sites)
                last_states(model, batch)
            finally:
                for handle in handles:
                    handle.remove()


def _plain(rows: Sequence[int], gram: Tensor, cross: Tensor, *, normed: bool) -> Tensor:
    """R [s, n] of copying: what stays says itself, behind a norm by the best common factor, and nothing else."""
    itself = cross[:, list(rows)].diagonal().sum() / gram.diagonal().sum() if normed else cross.new_ones(())
    copied = torch.zeros_like(cross)
    copied[range(len(rows)), list(rows)] = itself
    return copied


def _solved(gram: Tensor, cross: Tensor, plain: Tensor, ridge: float | None) -> Tensor:
    """What least squares add to copying, [s, n]; None adds nothing."""
    if ridge is None:
        return torch.zeros_like(plain)
    damped = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(damped, cross - gram @ plain)


def _ridge(site: Site, weight: Tensor) -> float | None:
    """The ridge whose output errs least on the half of the rows that it was not fitted on; None: copying does.

    With W^T W = K the squared error is tr(R K R^T u^T u) - 2 tr(R K z^T u), but for what is the same for every R.
    """
    squared = weight.T @ weight
    errors: dict[float | None, float] = dict.fromkeys((None, *RIDGES), 0.0)
    for (gram, cross), (unseen, told) in (site.moments, site.moments[::-1]):
        if not bool(gram.any()) or not bool(unseen.any()):
            return None
        plain = _plain(site.rows, gram, cross, normed=site.norm is not None)
        for ridge in errors:
            solution = plain + _solved(gram, cross, plain, ridge)
            read = solution @ squared
            errors[ridge] += float((read * (unseen @ solution)).sum() - 2 * (read * told).sum())
    return min(errors, key=lambda ridge: errors[ridge])


def inner_sites(
    model: nn.Module, heads: Mapping[int, Sequence[int]], neurons: Mapping[int, Sequence[int]]
) -> list[Site]:
    """Where gathered values (rows of whole heads) and feed-forward neurons are read, of the layers that are named."""
    layers = cast("Sequence[Any]", body_layers(model))
    return [
        *(
            Site(layers[i].self_attn.o_proj, tuple(r), (f"model.layers.{i}.self_attn.o_proj.weight",))
            for i, r in heads.items()
        ),
        *(
            Site(layers[i].mlp.down_proj, tuple(r), (f"model.layers.{i}.mlp.down_proj.weight",))
            for i, r in neurons.items()
        ),
    ]


def channel_sites(model: nn.Module, layers: Sequence[int], channels: Sequence[int]) -> list[Site]:
    """Where the residual stream is read: behind both norms of these layers, and behind the last one."""
    body: Any = cast("PreTrainedModel", model).base_model
    eps = float(cast("PreTrainedModel", model).config.rms_norm_eps)
    rows = tuple(channels)
    sites: list[Site] = []
    for index in layers:
        layer, name = body.layers[index], f"model.layers.{index}"
        for norm, maps in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            readers = tuple(f"{name}.{one}.weight" for one in maps)
            sites.append(Site(getattr(layer, norm), rows, readers, f"{name}.{norm}.weight", eps))
    return [*sites, Site(body.norm, rows, ("lm_head.weight",), "model.norm.weight", eps)]
