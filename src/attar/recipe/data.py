"""`data`: where rows come from, how they are split, and what the teacher labels besides."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from attar.recipe.base import Fraction, Positive, Spec


class SplitsSpec(Spec):
    """Names of the splits in the source (file stems for local files)."""

    train: str = Field(default="train", description="Split to train on.")
    validation: str | None = Field(
        default=None, description="Split to choose on; absent: `validation` if there, else cut from train."
    )
    test: str | None = Field(default="test", description="Split that is read once; null: cut from train.")


class AugmentTextSpec(Spec):
    """New texts made from training texts, labelled by the teacher.

    Each new text starts from a random training text; with probability `splice` the head of it is joined to the tail of
    another text; then words are dropped, swapped with their neighbour, or repeated from other texts.
    """

    kind: Literal["augment_text"]
    rows: Positive = Field(description="New texts to make.")
    splice: Fraction = Field(default=0.5, description="Share of new texts that join two texts.")
    splice_within_label: Fraction = Field(
        default=0.0, description="Share of splices that join texts of the same label."
    )
    drop: Fraction = Field(default=0.1, description="Chance that a word is dropped.")
    swap: Fraction = Field(default=0.1, description="Chance that a word changes places with the next.")
    insert: Fraction = Field(default=0.0, description="Chance that a random training word is put after a word.")
    seed: int = Field(default=0, ge=0, description="Seed of the augmentation.")


class AugmentImageSpec(Spec):
    """New images made from training images (small affine changes and noise), labelled by the teacher."""

    kind: Literal["augment_image"]
    rows: Positive = Field(description="New images to make.")
    rotate: float = Field(default=10.0, ge=0.0, le=180.0, description="Largest rotation, degrees.")
    shift: Fraction = Field(default=0.1, description="Largest shift, as a share of the side.")
    scale: Fraction = Field(default=0.1, description="Largest relative change of size.")
    flip: bool = Field(default=False, description="Mirror half of the images left to right.")
    noise: Fraction = Field(default=0.0, description="Standard deviation of pixel noise, pixels in 0..1.")
    seed: int = Field(default=0, ge=0, description="Seed of the augmentation.")


class UnlabelledSpec(Spec):
    """Rows without labels from another source, labelled by the teacher. The task's input columns must be there.

    Of a language model with `prompt` these are prompts, which the teacher answers, its likeliest token each time; they
    have no part in what the control learns from.
    """

    kind: Literal["unlabelled"]
    source: str = Field(description="Hub name, file or folder, as in `data.source`.")
    split: str = Field(default="train", description="Split to take.")
    revision: str | None = Field(default=None, description="Hub revision.")
    rows: Positive | None = Field(
        default=None, description="Take at most this many rows, drawn by `data.seed`; absent: all."
    )


TransferSpec = Annotated[AugmentTextSpec | AugmentImageSpec | UnlabelledSpec, Field(discriminator="kind")]


class DataSpec(Spec):
    """The data set."""

    source: str = Field(
        min_length=1,
        description="A Hub name; a local parquet, CSV or JSONL file, or a folder of such files named by split; a "
        "folder of images (SPLIT/LABEL/*.png); `digits` for scikit-learn's digits; `python` when rows are handed over.",
    )
    config: str | None = Field(default=None, description="Hub configuration (subset).")
    revision: str | None = Field(default=None, description="Hub revision.")
    splits: SplitsSpec = Field(default=SplitsSpec(), description="Names of the splits.")
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.1, description="Share of train that is cut off for validation where there is no such split."
    )
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.2, description="Share of train that is cut off for test where there is no such split."
    )
    max_train_rows: Positive | None = Field(
        default=None, description="Use at most this many training rows, drawn by `seed`."
    )
    max_held_out_rows: Positive | None = Field(
        default=None, description="Use at most this many rows of validation, and of test, drawn by `seed`."
    )
    transfer: tuple[TransferSpec, ...] = Field(default=(), description="More inputs, labelled by the teacher.")
    licence: str | None = Field(default=None, description="Licence of the data, for the model card.")
    seed: int = Field(default=0, ge=0, description="Seed of splits and draws.")
    min_class_rows: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Refuse a class with fewer training rows than this."
    )

    @model_validator(mode="after")
    def _splits_differ(self) -> DataSpec:
        names = [n for n in (self.splits.train, self.splits.validation, self.splits.test) if n]
        if len(set(names)) != len(names):
            raise ValueError(f"train, validation and test must be different splits, not {names}")
        return self
