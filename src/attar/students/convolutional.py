"""Convolutional nets, which runtimes quantize by other means than transformers."""

from __future__ import annotations

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_convolutional(model: nn.Module) -> bool:
    """Whether most weights are those of convolutions, as the ONNX exporter counts them in a graph: such a net is
    quantized statically, with ranges of activations from calibration.
    """
    convolved = sum(part.weight.numel() for part in model.modules() if isinstance(part, CONVOLUTIONS))
    return 2 * convolved > sum(p.numel() for p in model.parameters())
