"""How large a model is: parameters, and bytes of its weights as fp32 safetensors."""

from __future__ import annotations

from torch import Tensor, nn

_FLOAT32 = 4


def count_params(model: nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all tensors of the state dict in a safetensors file, floats as fp32, tied tensors once, header apart."""
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    total = 0
    for value in model.state_dict().values():
        if not isinstance(value, Tensor):
            continue
        place = (value.data_ptr(), tuple(value.shape), value.stride())
        if value.numel() and place not in seen:
            seen.add(place)
            total += value.numel() * (_FLOAT32 if value.is_floating_point() else value.element_size())
    return total
