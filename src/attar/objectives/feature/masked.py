"""Masked generation: the student's map, with parts taken out, must still bring forth the teacher's.

Shape letters: N rows, C_s and C_t the student's and the teacher's channels, H x W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from attar.objectives.learned import convolve, make_convolution, own_generator


class MaskedGeneration(nn.Module):
    """What MGD learns: the teacher's map from the student's masked one. Yang et al. 2022 (arXiv:2205.01529).

    The map passes a 1 x 1 convolution where channels differ. A share `masked` of its pixels (in all channels alike; for
    dense prediction 0.65 to 0.75 in the authors' code) or of its channels (for classification 0.15) is set to 0, anew
    for each row. Two 3 x 3 convolutions with a ReLU between them make the teacher's map of it. The objective is then
    `fitnet` of the two, which is not 0 where the student is the teacher. The authors sum the squares: C H W times as
    much, with weights near 1e-5.

    In evaluation nothing is masked. Masks follow from `seed`, `name` and the number of batches seen, which is
    checkpointed, so a resumed run draws the same; they depend on how a step is cut into micro-batches. The global
    random state is neither read nor moved.
    """

    draws: Tensor

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        seed: int,
        name: str,
        masked: float = 0.65,
        of: Literal["pixels", "channels"] = "pixels",
    ) -> None:
        super().__init__()
        if not 0.0 <= masked < 1.0:
            raise ValueError(
                f"MaskedGeneration: masked is {masked}; it is a share that leaves some, so 0 <= masked < 1"
            )
        self._seed, self._name, self._masked, self._of = seed, name, masked, of
        self.align: nn.Conv2d | None = None
        if student_channels != teacher_channels:
            self.align = make_convolution(
                student_channels, teacher_channels, 1, seed=seed, name=f"{name}.align", bias=True
            )
        self.first, self.second = (
            make_convolution(teacher_channels, teacher_channels, 3, seed=seed, name=f"{name}.{part}", bias=True)
            for part in ("first", "second")
        )
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C_s, H, W] -> [N, C_t, H, W]."""
        aligned = maps if self.align is None else convolve(maps, self.align)
        if self.training:
            aligned = aligned * self._mask(aligned)
            self.draws += 1
        return convolve(convolve(aligned, self.first).relu(), self.second)

    def _mask(self, maps: Tensor) -> Tensor:
        """1 for what stays, 0 for what is taken out: [N, 1, H, W] or [N, C, 1, 1]."""
        rows, channels, height, width = maps.shape
        shape = (rows, 1, height, width) if self._of == "pixels" else (rows, channels, 1, 1)
        generator = own_generator(self._seed, f"{self._name}.mask.{int(self.draws)}")
        return (torch.rand(shape, generator=generator) >= self._masked).to(maps)
