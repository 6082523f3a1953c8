"""The image task: pixels equal the processor's own, grey images, timm models, folders that serve a pipeline."""

from __future__ import annotations

import base64
import io
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessorPil, ConvNextImageProcessorPil, pipeline

from attar.errors import DataError, MissingExtra, PlanError, TeacherError
from attar.tasks.timm_models import timm_model, timm_processor
from tiny import save, tiny_image_model, tiny_image_processor, tiny_images

IMAGE = {"kind": "image_classification", "image_size": 8}


def pictures(count=6, size=(11, 7), mode="RGB"):
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)).convert(mode) for _ in range(count)
    ]
    return Dataset.from_dict({"image": images, "label": [0, 1] * (count // 2)})


PROCESSORS = {
    "plain": tiny_image_processor(),
    "crop": CLIPImageProcessorPil(
        size={"shortest_edge": 9},
        crop_size={"height": 8, "width": 8},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.1],
    ),
    "crop_pct": ConvNextImageProcessorPil(size={"shortest_edge": 8}, crop_pct=0.875),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_batch_is_what_the_processor_makes(make, name):
    task, rows, processor = make(**IMAGE), pictures(), PROCESSORS[name]
    encoded = task.encode(rows, processor)
    assert encoded.inputs["pixel_values"].dtype == np.uint8
    assert encoded.inputs["pixel_values"].shape == (6, 3, 8, 8)
    assert encoded.lengths.tolist() == [1] * 6
    assert encoded.labels.tolist() == [0, 1] * 3
    batch = task.batch(encoded, [4, 1], processor)
    reference = processor(images=[rows[4]["image"], rows[1]["image"]], return_tensors="pt")
    torch.testing.assert_close(batch["pixel_values"], reference["pixel_values"], atol=1e-5, rtol=1e-5)
    assert list(batch) == ["pixel_values"]


def test_the_batch_leaves_the_encoded_pixels_alone(make):
    task, processor = make(**IMAGE), tiny_image_processor()
    encoded = task.encode(pictures(), processor)
    before = encoded.inputs["pixel_values"].copy()
    task.batch(encoded, range(6), processor)
    assert (encoded.inputs["pixel_values"] == before).all()


def test_torchvision_and_pil_give_the_same_pixels_where_nothing_is_resized(make, tmp_path):
    task, rows = make(**IMAGE), pictures(size=(8, 8))
    task.new_processor().save_pretrained(tmp_path)
    encoded = task.encode(rows, task.load_processor(tmp_path))
    served = AutoImageProcessor.from_pretrained(tmp_path)
    assert served.backend == "torchvision"
    reference = served(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    batch = task.batch(encoded, range(6), task.new_processor())
    torch.testing.assert_close(batch["pixel_values"], reference, atol=1e-5, rtol=1e-5)
    resized = task.encode(pictures(), served)
    torch.testing.assert_close(
        task.batch(resized, range(6), served)["pixel_values"],
        served(images=[row["image"] for row in pictures()], return_tensors="pt")["pixel_values"],
        atol=1e-5,
        rtol=1e-5,
    )


def test_an_image_that_cannot_be_read_is_named(make, tmp_path):
    task, processor = make(**IMAGE), tiny_image_processor()
    pictures()[0]["image"].save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    for content in (b"no image", data[: len(data) // 2], b""):
        (tmp_path / "damaged.png").write_bytes(content)
        files = [str(tmp_path / name) for name in ("whole.png", "damaged.png")]
        rows = Dataset.from_dict({"image": files}).cast_column("image", ImageFeature())
        for ask in (lambda rows=rows: task.encode(rows, processor), lambda rows=rows: task.content_keys(rows)):
            with pytest.raises(DataError, match=r"damaged\.png: cannot read the image"):
                ask()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_images_of_other_modes_have_three_channels(make, mode):
    task, processor = make(**IMAGE), tiny_image_processor()
    if mode == "I;16":
        deep = Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(np.uint16))
        rows = Dataset.from_dict({"image": [deep, deep]})
    else:
        rows = Dataset.from_dict({"image": [image.convert(mode) for image in pictures()["image"]]})
    encoded = task.encode(rows, processor)
    pixels = encoded.inputs["pixel_values"]
    assert pixels.shape[1:] == (3, 8, 8)
    assert (encoded.labels == -100).all()
    if mode in ("L", "LA", "1", "I;16"):
        assert (pixels[:, 0] == pixels[:, 1]).all()
    if mode == "I;16":
        assert pixels.max() == 63_000 >> 8


def test_a_processor_that_does_more_is_refused(make):
    class Shifting(type(tiny_image_processor())):
        def normalize(self, image, mean, std, **kwargs):
            return super().normalize(image, mean, std, **kwargs) + 1

    with pytest.raises(TeacherError, match="does more than resize, crop, scale and normalise"):
        make(**IMAGE).encode(pictures(), Shifting(size={"height": 8, "width": 8}))


def test_a_processor_that_leaves_sizes_different_is_refused(make):
    images = [Image.new("RGB", (9, 9)), Image.new("RGB", (9, 18))]
    processor = CLIPImageProcessorPil(size={"shortest_edge": 8}, do_center_crop=False)
    with pytest.raises(TeacherError, match="images of different sizes stay different"):
        make(**IMAGE).encode(Dataset.from_dict({"image": images}), processor)


def test_many_pixels_lie_in_a_file(make, monkeypatch):
    monkeypatch.setattr("attar.tasks.image_classification._IN_MEMORY", 100)
    task, processor = make(**IMAGE), tiny_image_processor()
    encoded = task.encode(pictures(), processor)
    assert isinstance(encoded.inputs["pixel_values"], np.memmap)
    monkeypatch.undo()
    expected = task.batch(task.encode(pictures(), processor), [5, 0], processor)
    torch.testing.assert_close(task.batch(encoded, [5, 0], processor), expected)


def test_no_rows(make):
    task = make(**IMAGE)
    assert len(task.encode(pictures().select([]), tiny_image_processor())) == 0


def test_content_keys_are_of_pixels(make):
    task, rows = make(**IMAGE), pictures()
    keys = task.content_keys(rows)
    assert len(set(keys)) == 6

    def stored(form):
        cells = []
        for row in rows:
            stream = io.BytesIO()
            row["image"].save(stream, form)
            cells.append(stream.getvalue())
        from datasets import Image as ImageFeature

        return Dataset.from_dict({"image": cells}).cast_column("image", ImageFeature())

    assert task.content_keys(stored("BMP")) == keys
    assert task.content_keys(stored("JPEG")) != keys


def test_an_example_is_a_small_png(make):
    row = {"image": Image.new("L", (300, 150), 7)}
    url = make(**IMAGE).example(row)["image"]
    head, _, body = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        assert image.size == (96, 48)
    assert row["image"].size == (300, 150)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_saved_folder_serves_a_pipeline(make, tmp_path, kind):
    labels = ("dark", "bright")
    task = make(labels, **IMAGE)
    save(tiny_image_model(labels, kind), task.new_processor(), tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    images = tiny_images([0, 1, 1])
    rows = Dataset.from_dict({"image": images, "label": [0, 1, 1]})
    model, processor = task.load_model(tmp_path), task.load_processor(tmp_path)
    with torch.no_grad():
        logits = model(**task.batch(task.encode(rows, processor), range(3), processor)).logits
    for image, row in zip(images, logits.softmax(-1), strict=True):
        scores = {answer["label"]: answer["score"] for answer in pipeline(task.pipeline, str(tmp_path))(image)}
        assert [scores[name] for name in labels] == pytest.approx(row.tolist(), abs=1e-5)


def test_a_model_is_built_and_a_folder_without_processor_gets_the_recipes(make, tmp_path):
    task = make(("a", "b", "c"), **IMAGE, mean=[0.1, 0.2, 0.3], std=[1, 1, 1])
    config = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    model = task.build_model(config)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    model.save_pretrained(tmp_path)
    processor = task.load_processor(tmp_path)
    assert list(processor.image_mean) == [0.1, 0.2, 0.3]
    assert processor.size["height"] == 8
    with pytest.raises(PlanError, match='"dephts" Did you mean "depths"'):
        task.build_model({"model_type": "resnet", "dephts": [1]})
    with pytest.raises(TeacherError, match="no image processor can be loaded"):
        task.load_processor("SomeOrg/no-such-model")
    assert (task.metric, task.problem) == ("accuracy", "single_label")


def test_a_timm_model_answers_and_is_saved_as_a_transformers_folder(make, tmp_path):
    pytest.importorskip("timm", reason="the extra `vision` is not installed")
    task = make(("a", "b"), **IMAGE)
    model = timm_model("test_resnet", {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}, pretrained=False)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        plain, asked = model(pixel_values=pixels), model(pixel_values=pixels, output_hidden_states=True)
    assert plain.logits.shape == (2, 2)
    assert plain.hidden_states is None
    torch.testing.assert_close(plain.logits, asked.logits)
    assert all(state.dim() == 4 for state in asked.hidden_states)
    processor = timm_processor("test_resnet")
    save(model, processor, tmp_path)
    loaded = task.load_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values=pixels).logits, plain.logits)
    assert loaded.config.id2label == {0: "a", 1: "b"}
    assert task.load_processor(tmp_path).to_dict() == processor.to_dict()
    assert {a["label"] for a in pipeline(task.pipeline, str(tmp_path))(tiny_images([1])[0])} == {"a", "b"}


def test_the_timm_view_is_timms_own(make):
    timm = pytest.importorskip("timm", reason="the extra `vision` is not installed")
    task, rows = make(**IMAGE), pictures(2, size=(200, 190))
    processor = timm_processor("test_resnet")
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg("test_resnet").to_dict(), verbose=False)
    transform = timm.data.create_transform(**config)
    ours = task.batch(task.encode(rows, processor), range(2), processor)["pixel_values"]
    theirs = torch.stack([transform(row["image"]) for row in rows])
    assert ours.shape == theirs.shape
    # One step of a byte is 0.018 after normalisation; the resizing of torchvision's PIL path and ours may round apart.
    assert (ours - theirs).abs().max() < 0.02


def test_timm_out_of_reach_unknown_or_absent(make, monkeypatch):
    pytest.importorskip("timm", reason="the extra `vision` is not installed")
    task = make(**IMAGE)
    with pytest.raises(TeacherError, match=r'"timm:test_resnet": its weights cannot be loaded'):
        task.load_model("timm:test_resnet", new_head=True)
    with pytest.raises(TeacherError, match=r'timm has no such model. Did you mean "resnet18"'):
        task.load_model("timm:resnet_18")
    for package in ("torchvision", "timm"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtra, match=rf'needs the package "{package}".*attar\[vision\]'):
            task.load_model("timm:resnet18")
