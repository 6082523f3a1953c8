"""What a teacher says about each token, in some tens of bytes: lists with a tail, and weighed draws.

    lists   the likeliest tokens of a place and the mass of all others, for `sparse_kl`
    draws   tokens whose weights are unbiased for the teacher's probabilities, for `sampled_kl`

Ids are written in ascending order (see `id_lists`), weights as levels on a log scale (see `log_levels`).

Of a list each cell, the tail too, takes the nearest level, and what is read is made to sum to 1. Otherwise a token
would weigh what its cells happen to sum to, and a student that agrees would have a loss. A cell that is read differs
from what was given by less than a step, and KL(read || given) is at most step^2 / 8 (Hoeffding's lemma: cells were
multiplied by e^x, with x in a range of one step).

Of draws each weight takes one of the two levels about it, by chance, so that its mean is the weight; they are not made
to sum to 1, which would bias them. So the gradient of `sampled_kl` is unbiased; its value too, but for step^2 / 8 nats
at most, where log-probabilities are read from weights, and what float16 leaves of `means`. Where `threshold_targets`
made them, weights that are no probabilities are one weight a token: it takes one level.

Arrays are those of `token_streams`, and

    steps    uint8 [T]             distance of two levels
    origins  int8 [T]              draws alone: weight of level 0, in eighths of a nat
    means    float16 [T]           draws alone: mean log-probability where that is not the weight's logarithm

Draws that have no `own` have weights that are no probabilities. Nothing here knows files or teachers. Shape letters:
T tokens, K most ids of a token, R runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from attar.teachers import token_streams
from attar.teachers.log_levels import (
    FEWEST_BITS,
    MOST_BITS,
    check_bits,
    depths_of,
    nearest,
    step_codes,
    steps_of,
    unbiased,
)
from attar.teachers.token_streams import Flat, Packed, read, runs, write

LIST_BITS = 6
"""Of a level of a list. 8 change nothing that the tail does not hide many times over; 4 are seen in the loss of a
student that is near the teacher (see benchmarks/README.md).
"""
DRAW_BITS = 8
"""Of a level of a draw. Few ids have levels of their own, so that 8 bits cost 5 % more bytes than 6, and a fifth of the
value's noise goes (see benchmarks/README.md).
"""
EVERY = 64
"""Tokens from one mark to the next, where the caller names none."""
_PADDING = -1
_ORIGINS = 8
HEAVIEST = float(np.exp(15.0))
"""The largest weight that can be written."""
_ALIKE = 1e-4
"""Log-weights so near are one, computed twice."""


class Lists(NamedTuple):
    """As `attar.objectives.sparse.Listed`, in numpy; ids ascend where it was read."""

    token_ids: np.ndarray
    """int64 [T, K], distinct in a row; -1 is padding."""
    log_probs: np.ndarray
    """float32 [T, K], nats, over the whole vocabulary; -inf at padding."""
    tail: np.ndarray
    """float32 [T]: log-probability of all other tokens together."""


class Draws(NamedTuple):
    """As `attar.objectives.sparse.Sampled`, in numpy; ids ascend where it was read."""

    token_ids: np.ndarray
    """int64 [T, K]; -1 is padding."""
    log_probs: np.ndarray
    """float32 [T, K]; -inf at padding. Where it was read, ids whose weight is not their probability have the weighted
    mean of all such ids of their token: the same sum for `sampled_kl`.
    """
    weights: np.ndarray
    """float32 [T, K]; 0 at padding."""


def pack_lists(lists: Lists, *, bits: int = LIST_BITS, starts: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Lists as arrays. What has a probability of 0 is not listed.

    `bits` of a level, 2 to 8. `starts`, ascending: the tokens at which reading may start without what is before (None:
    every 64th). Raises ValueError where list and tail of a token do not sum to 1 within 1 %, or a token lists an id
    twice.
    """
    check_bits(bits)
    kept = (lists.token_ids != _PADDING) & (lists.log_probs > -np.inf)
    owner, token_ids, order = _flatten(lists.token_ids, kept)
    log_probs = np.asarray(lists.log_probs, dtype=np.float64)[kept][order]
    tail = np.asarray(lists.tail, dtype=np.float64)
    _check_lists(owner, token_ids, log_probs, tail)
    tops = _each(np.maximum, tail, owner, log_probs)
    lows = _each(np.minimum, np.where(tail > -np.inf, tail, tops), owner, log_probs)
    codes = step_codes(tops - lows, bits)
    steps = steps_of(codes)
    levels = nearest(tops - tail, steps, bits), nearest(tops[owner] - log_probs, steps[owner], bits)
    flat = Flat(np.bincount(owner, minlength=len(tail)), token_ids, None, *levels)
    return {**write(flat, bits, _starts(starts, len(tail))), "steps": codes}


def unpack_lists(packed: Packed, starts: np.ndarray, stops: np.ndarray) -> Lists:
    """The lists of tokens `starts` to before `stops`, int64 [R], run after run.

    K is the longest list of those asked for. Raises ValueError where the arrays contradict one another: they are
    damaged.
    """
    flat, owner, shared, own = _depths(packed, starts, stops)
    mass = np.exp(-shared) + np.bincount(owner, np.exp(-own), minlength=len(shared))
    norm = np.log(mass).astype(np.float32)
    token_ids, log_probs = _padded(flat.counts, (flat.token_ids, _PADDING), (-own - norm[owner], -np.inf))
    return Lists(token_ids.astype(np.int64), log_probs, -shared - norm)


def pack_draws(
    draws: Draws, uniforms: np.ndarray, *, bits: int = DRAW_BITS, starts: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Draws as arrays; an id that a token drew twice is written once, with the sum of its weights.

    `uniforms` [T, K + 1] in [0, 1) decide which way weights are rounded; over them, each weight's mean is what was
    given. Take new ones for each token. The rest as in `pack_lists`. Raises ValueError where a weight or the
    log-probability of a drawn token is not finite.
    """
    check_bits(bits)
    tokens = len(draws.token_ids)
    kept = (draws.token_ids != _PADDING) & (draws.weights != 0)
    owner, token_ids, order = _flatten(draws.token_ids, kept)
    weights = np.asarray(draws.weights, dtype=np.float64)[kept][order]
    log_probs = np.asarray(draws.log_probs, dtype=np.float64)[kept][order]
    if not ((weights > 0).all() and np.isfinite(weights).all() and np.isfinite(log_probs).all()):
        raise ValueError("pack_draws: weights must be above 0, and they and log-probabilities of drawn tokens finite")
    if weights.max(initial=0.0) > HEAVIEST:
        raise ValueError(f"pack_draws: a weight is {weights.max():.4g}; at most {HEAVIEST:,.0f} can be written")
    new = np.append(True, (np.diff(token_ids) != 0) | (np.diff(owner) != 0))[: len(owner)]
    weights = np.bincount(np.cumsum(new) - 1, weights, minlength=int(new.sum()))
    owner, token_ids, log_probs, log_weights = owner[new], token_ids[new], log_probs[new], np.log(weights)
    own, shared = _shared(owner, log_weights, log_probs, tokens)
    lent = weights if own is None else np.where(own, 0.0, weights)
    total = np.bincount(owner, lent, minlength=tokens)
    means = np.bincount(owner, lent * log_probs, minlength=tokens) / np.where(total > 0, total, 1.0)

    tops = _each(np.maximum, shared, owner, log_weights)
    origins = np.ceil(np.where(tops > -np.inf, tops, 0.0) * _ORIGINS).clip(-128, 127).astype(np.int8)
    depths, first = origins[owner] / _ORIGINS - log_weights, origins / _ORIGINS - shared
    codes = step_codes(_each(np.maximum, np.where(first < np.inf, first, 0.0), owner, depths), bits)
    steps, counts = steps_of(codes), np.bincount(owner, minlength=tokens)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    which = slice(None) if own is None else own
    levels = (
        unbiased(first, steps, bits, uniforms[:, 0]),
        unbiased(depths[which], steps[owner][which], bits, uniforms[owner, 1 + place][which]),
    )
    packed = write(Flat(counts, token_ids, own, *levels), bits, _starts(starts, tokens))
    return {**packed, "steps": codes, "origins": origins, "means": means.astype(np.float16)}


def unpack_draws(packed: Packed, starts: np.ndarray, stops: np.ndarray) -> Draws:
    """The draws of tokens `starts` to before `stops`; all else as in `unpack_lists`."""
    flat, owner, shared, own = _depths(packed, starts, stops)
    origins = runs(packed["origins"], starts, stops) / np.float32(_ORIGINS)
    log_probs = runs(packed["means"], starts, stops).astype(np.float32)[owner]
    if flat.own is None:
        weights = np.exp(origins[owner] - own)
    else:
        log_probs[flat.own] = origins[owner[flat.own]] - own
        weights = np.exp(origins - shared)[owner]
        weights[flat.own] = np.exp(log_probs[flat.own])
    nothing = weights == 0.0
    token_ids, log_probs = np.where(nothing, _PADDING, flat.token_ids), np.where(nothing, -np.inf, log_probs)
    filled = _padded(flat.counts, (token_ids, _PADDING), (log_probs, -np.inf), (weights, 0.0))
    return Draws(filled[0].astype(np.int64), *filled[1:])


def faults(packed: Packed) -> str | None:
    """What is wrong with arrays that were read from somewhere; None: their kinds and shapes fit each other."""
    if problem := token_streams.faults(packed):
        return problem
    tokens, bits = len(packed["counts"]), int(packed["bits"][0])
    if not FEWEST_BITS <= bits <= MOST_BITS:
        return f"levels have {bits} bits"
    wanted = {"steps": "u1", "origins": "i1", "means": "f2"}
    if "origins" not in packed and "means" not in packed:
        wanted = {"steps": "u1"}
    for name, kind in wanted.items():
        if name not in packed or packed[name].dtype.str[1:] != kind or packed[name].shape != (tokens,):
            return f"{name} is absent, or not for {tokens} tokens"
    return None


def _depths(packed: Packed, starts: np.ndarray, stops: np.ndarray) -> tuple[Flat, np.ndarray, np.ndarray, np.ndarray]:
    """What was read, the token of each id, and depths below level 0: of each token's shared level, of ids' own."""
    flat = read(packed, starts, stops)
    bits, steps, owner = int(packed["bits"][0]), steps_of(runs(packed["steps"], starts, stops)), flat.owner
    holder = owner if flat.own is None else owner[flat.own]
    return flat, owner, depths_of(flat.shared_levels, steps, bits), depths_of(flat.own_levels, steps[holder], bits)


def _flatten(token_ids: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token and id of each kept place, ascending, and the order that makes them so."""
    owner, ids = np.nonzero(kept)[0], np.asarray(token_ids)[kept]
    order = np.lexsort((ids, owner))
    return owner, ids[order], order


def _shared(
    owner: np.ndarray, log_weights: np.ndarray, log_probs: np.ndarray, tokens: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """Which ids have a weight of their own, because it is their probability, and the log-weight of all others.

    None, and no other, where the others of a token differ among themselves.
    """
    own = np.abs(log_weights - log_probs) < _ALIKE
    shared = np.full(tokens, -np.inf)
    shared[owner[~own]] = log_weights[~own]
    if (np.abs(log_weights - shared[owner])[~own] < _ALIKE).all():
        return own, shared
    return None, np.full(tokens, -np.inf)


def _each(function: np.ufunc, start: np.ndarray, owner: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The largest or smallest of each token's values and of its `start`."""
    found = np.array(start, dtype=np.float64)
    function.at(found, owner, values)
    return found


def _padded(counts: np.ndarray, *columns: tuple[np.ndarray, float]) -> tuple[np.ndarray, ...]:
    """Values [N] with what fills the rest, as [T, K]."""
    filled = np.arange(counts.max(initial=0)) < counts[:, None]
    found: list[np.ndarray] = []
    for values, padding in columns:
        padded = np.full(filled.shape, padding, dtype=values.dtype)
        padded[filled] = values
        found.append(padded)
    return tuple(found)


def _starts(starts: np.ndarray | None, tokens: int) -> np.ndarray:
    return np.arange(0, tokens, EVERY) if starts is None else np.asarray(starts, dtype=np.int64)


def _check_lists(owner: np.ndarray, token_ids: np.ndarray, log_probs: np.ndarray, tail: np.ndarray) -> None:
    if ((np.diff(token_ids) == 0) & (np.diff(owner) == 0)).any():
        raise ValueError("pack_lists: a token lists an id twice; ids of a list are distinct")
    mass = np.exp(tail) + np.bincount(owner, np.exp(log_probs), minlength=len(tail))
    wrong = np.flatnonzero(~(np.abs(mass - 1.0) < 0.01))
    if len(wrong):
        raise ValueError(
            f"pack_lists: list and tail of token {wrong[0]} sum to {mass[wrong[0]]:.4g}, not to 1. Give log-"
            "probabilities over the whole vocabulary at temperature 1, and the log mass of what is not listed."
        )
