"""Silence for exporters: what they warn, log and print is about their own insides, and no user can act on it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Generator


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Drop warnings, log lines below ERROR and prints inside the block; errors pass.

    Known ones: torch.onnx repeats each dynamic axis that inputs share; onnxruntime's quantizer logs advice to
    pre-process and prints progress; torch.export prints graphs to stderr; onnxscript logs each rewrite that it tries.
    """
    before, dropped = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(dropped), contextlib.redirect_stderr(dropped):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def silent() -> Generator[None]:
    """`quiet`, and what native libraries write to the process's own streams goes nowhere too.

    Known ones: LiteRT tells which delegate it made, ExecuTorch what it cannot load, XLA that its logs start.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [(place, os.dup(place)) for place in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for place, _ in kept:
            os.dup2(nowhere, place)
        with quiet():
            yield
    finally:
        for place, copy in kept:
            os.dup2(copy, place)
            os.close(copy)
        os.close(nowhere)


def reason(error: BaseException) -> str:
    """The innermost cause of an exporter's error in one line: its own message is pages long."""
    while (cause := error.__cause__) is not None:
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[:2] if lines and lines[0].endswith(":") else lines[:1]
    return " ".join([f"{type(error).__name__}:", *told]) if told else type(error).__name__
