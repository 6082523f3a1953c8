"""timm models as Transformers models: `timm:NAME` gives a TimmWrapper model, whose folder loads without attar.

The model answers with logits and, when asked, with one feature map a stage as hidden states. Its image processor
becomes a plain Transformers one, so that it is saved beside the model like any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import CLIPImageProcessorPil, TimmWrapperConfig, TimmWrapperForImageClassification
from transformers.image_utils import PILImageResampling

from attar.errors import MissingExtra, TeacherError
from attar.recipe.nearest import did_you_mean

PREFIX = "timm:"
_RESAMPLING = {
    "bilinear": PILImageResampling.BILINEAR,
    "bicubic": PILImageResampling.BICUBIC,
    "nearest": PILImageResampling.NEAREST,
    "lanczos": PILImageResampling.LANCZOS,
}


def needs_timm(folder: Path) -> bool:
    """Does a local model folder keep its image settings in config.json, as timm checkpoints do?"""
    config = folder / "config.json"
    return config.is_file() and "pretrained_cfg" in json.loads(config.read_text())


def timm_model(name: str, fields: Mapping[str, Any] | None, *, pretrained: bool = True) -> nn.Module:
    """A timm model in eval mode. `fields`: configuration of a fresh head; None: the checkpoint's own classes.

    Raises MissingExtra without timm or torchvision, and TeacherError for an unknown name or weights out of reach.
    """
    timm = _timm(name)
    settings = dict(fields) if fields is not None else _own_labels(timm, name)
    model = cast("Any", TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, **settings)))
    if pretrained:
        try:
            weights = timm.create_model(name, pretrained=True, num_classes=model.num_labels).state_dict()
        except Exception as error:  # timm and the Hub client raise many unrelated types
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TeacherError(
                f'model "timm:{name}": its weights cannot be loaded: {cause}. Check the network; offline, save the '
                "model as a Transformers folder where there is one and give its path."
            ) from error
        model.timm_model.load_state_dict(weights)
    return cast("nn.Module", model.eval())


def timm_processor(name: str) -> Any:
    """The evaluation view of a timm model as a Transformers image processor."""
    timm = _timm(name)
    return _from_data_config(timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict(), verbose=False))


def plain_processor(processor: Any) -> Any:
    """The same image processor; timm's wrapper, which cannot be saved, as one that can."""
    data_config = getattr(processor, "data_config", None)
    return processor if data_config is None else _from_data_config(data_config)


def _from_data_config(config: Mapping[str, Any]) -> Any:
    _, height, width = config["input_size"]
    scale = float(config["crop_pct"])
    return CLIPImageProcessorPil(
        do_resize=True,
        size=(
            {"shortest_edge": math.floor(height / scale)}
            if height == width
            else {"height": math.floor(height / scale), "width": math.floor(width / scale)}
        ),
        resample=_RESAMPLING[config["interpolation"]],
        do_center_crop=True,
        crop_size={"height": height, "width": width},
        image_mean=list(config["mean"]),
        image_std=list(config["std"]),
    )


def _timm(name: str) -> Any:
    """The timm package, if it knows the model."""
    for package in ("timm", "torchvision"):  # timm's wrapper in Transformers needs both
        try:
            import_module(package)
        except ImportError as error:
            raise MissingExtra(package, "vision", f'model "timm:{name}"') from error
    timm = cast("Any", import_module("timm"))
    if not timm.is_model(name):
        known = timm.list_models(pretrained=False)
        raise TeacherError(f'model "timm:{name}": timm has no such model.{did_you_mean(name, known)}')
    return timm


def _own_labels(timm: Any, name: str) -> dict[str, Any]:
    cfg = timm.get_pretrained_cfg(name)
    classes = int(cfg.num_classes or 0)
    if not classes:
        raise TeacherError(f'model "timm:{name}": has no classes of its own. Use fit: probe or fit: full.')
    subset = timm.data.infer_imagenet_subset(cfg.to_dict())
    if subset is None:
        return {"num_labels": classes}
    names = timm.data.ImageNetInfo(subset).label_descriptions()
    distinct = list(names) if len(set(names)) == len(names) else [f"{i}: {label}" for i, label in enumerate(names)]
    return {"id2label": dict(enumerate(distinct)), "label2id": {label: i for i, label in enumerate(distinct)}}
