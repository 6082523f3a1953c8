"""Which device of this machine a recipe means."""

from __future__ import annotations

import torch

from attar.errors import PlanError


def device_of(name: str) -> str:
    """The device that `training.device` means on this machine: `auto` is the first of cuda, mps and cpu that is there.

    Raises PlanError where it is absent.
    """
    here = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name == "auto":
        return here[0]
    number = int(name.partition(":")[2] or 0)
    if name.partition(":")[0] not in here or (number and number >= torch.cuda.device_count()):
        raise PlanError(f'training.device: "{name}" is not on this machine. Allowed here: auto, {", ".join(here)}.')
    return name
