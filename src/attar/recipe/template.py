"""The commented recipe that `attar init` writes, one a kind of task. Every line of it is valid."""

from __future__ import annotations

from attar.errors import RecipeError
from attar.recipe.nearest import did_you_mean, listed

_HEAD = """\
# A recipe for attar: a teacher, data and a budget become a small student that you can ship.
#   attar check recipe.yaml        every problem, and the plan, in under a second
#   attar distill recipe.yaml      the run; the same command again resumes it
# Lines behind a # show options with their defaults. `attar init --schema` writes a JSON schema for your editor.
name: my-student
"""

_TEXT = """
task:
  kind: text_classification
  text: text                 # column with the text
  # text_pair: text_2        # column with the second text of a pair
  label: label               # column with the label
  # problem: single_label    # or multi_label, regression
  # labels: [no, yes]        # names in the order of their ids; default: from the data
  max_length: 128            # longest input in tokens

teacher:
  kind: local                # or ensemble: several teachers, mixed or each for rows of its own (docs/teachers.md)
  model: sentence-transformers/all-MiniLM-L6-v2   # Hub name, folder, or package:NAME/PATH
  fit: probe                 # none: it has a head; probe: frozen features and a fitted head; full: fine-tune it
  # label_map: {POS: positive}   # with fit none, where its label names differ from the data's
  # trust_remote_code: false # run Python code that comes with the model
  licence: apache-2.0

data:
  source: PolyAI/banking77   # Hub name; parquet, CSV or JSONL file; folder of such files named by split
  # splits: {train: train, test: test}   # validation is cut from train where it is absent
  # max_train_rows: 5000
  transfer:                  # more inputs, labelled by the teacher
    - {kind: augment_text, rows: 10000, splice: 0.5, drop: 0.1, swap: 0.1}
    # - {kind: unlabelled, source: my_texts.csv}

student:
  kind: from_teacher         # or from_config (any Transformers configuration), pretrained
  layers: 2                  # how many, or which: [0, 5]
  hidden_size: 128           # embeddings are projected by PCA
  vocabulary: {keep: used}   # tokens that the data uses, plus a fallback; or all

"""

_TEXT_TRAINING = """\
training:
  epochs: 10
  batch_size: 32
  learning_rate: 1e-3
  # token_dropout: 0.1       # share of the student's tokens hidden in each step
  # subword_dropout: 0.05    # share spelled in shorter pieces, as words outside its vocabulary will be
  # quantization: {precision: int8}      # train with the rounding of the int8 export (docs/quantization.md)
"""

_IMAGE = """
task:
  kind: image_classification
  image: image               # column with the image
  label: label               # column with the label
  image_size: 16             # images are resized to this many pixels a side
  # mean: [0.5, 0.5, 0.5]    # of each channel, after scaling to 0..1
  # std: [0.5, 0.5, 0.5]

teacher:
  kind: local                # or ensemble: several teachers, mixed or each for rows of its own (docs/teachers.md)
  config:                    # an untrained model; or `model:` with a Hub name, a folder or timm:NAME
    model_type: resnet
    layer_type: basic
    embedding_size: 32
    hidden_sizes: [32, 64, 128]
    depths: [1, 2, 2]
  fit: full                  # none: it has a head; probe: frozen features and a fitted head; full: fine-tune it
  fitting: {epochs: 15, batch_size: 64, learning_rate: 3e-3, schedule: cosine}

data:
  source: digits             # scikit-learn's; or a Hub name, a folder SPLIT/LABEL/*.png, a parquet file
  transfer:                  # more inputs, labelled by the teacher
    - {kind: augment_image, rows: 3000, rotate: 10, shift: 0.08, scale: 0.1}
    # - {kind: unlabelled, source: my_images}

student:
  kind: from_config          # any Transformers configuration; or from_teacher (ViT), pretrained
  config:
    model_type: resnet
    layer_type: basic
    embedding_size: 12
    hidden_sizes: [12, 24, 40]
    depths: [1, 1, 1]

"""

_IMAGE_TRAINING = """\
training:
  epochs: 15
  batch_size: 64
  learning_rate: 5e-3
  # mixup: 0.2               # the teacher is asked live and sees the mixed images
  # quantization: {precision: int8}      # train with the rounding of the int8 export (docs/quantization.md)
"""

_LANGUAGE = """
task:
  kind: causal_lm
  prompt: question           # column with what an answer follows; leave it out where `text` holds plain texts
  text: answer               # column with the answer, or `json_fields` (JSON of columns); or `messages`: chats
  # metric: perplexity       # or exact_match: the share of held-out prompts that are answered as the data does
  # generation: {max_tokens: 128, watched_rows: 64}        # with exact_match: how answers are written
  # template: auto           # prompts and chats as the tokenizer's chat template writes them; or always, never
  # learn: answers           # only the tokens of answers count; or all
  max_length: 256            # longest sequence in tokens

teacher:
  kind: local                # or ensemble: several teachers, mixed or each for rows of its own (docs/teachers.md)
  model: HuggingFaceTB/SmolLM2-135M-Instruct   # Hub name, folder, a .gguf file, or package:NAME/PATH
  # signals: live            # asked in every step; store: once, and trained from disk (some 40 bytes a token)
  # targets: {kind: sampled, threshold: 0.02}   # what a store keeps of a token; or {kind: top_k, k: 64}
  # fit: full                # fine-tune it first on the training rows (answers alone); none: it is asked as it is
  # fitting: {epochs: 3, batch_size: 16, learning_rate: 2e-4}
  licence: apache-2.0

data:
  source: openai/gsm8k       # Hub name; parquet, CSV or JSONL file; folder of such files named by split
  config: main
  # splits: {train: train, test: test}   # validation is cut from train where it is absent
  max_train_rows: 1600
  max_held_out_rows: 100     # of validation, and of test

student:
  kind: from_teacher         # or from_config (any Transformers configuration), pretrained
  layers: 8                  # how many (by block influence), or which: [0, 1, 5, 29]
  # lora: {rank: 16, alpha: 32.0}        # learn small matrices beside frozen weights, added to them at the end
  vocabulary: {keep: all}    # or used: only tokens that the training texts need

objectives:                  # a weighted sum; docs/objectives.md lists the kinds
  - {kind: forward_kl}
  # - {kind: hard_labels, weight: 0.1}   # the data's own next token
  # - {kind: aligned}        # where a pretrained student has another tokenizer; or uld, projected_kl, span_kl

# rollouts:                  # in some steps the student writes the answers itself, and the teacher scores them
#   fraction: 0.5            # share of these steps
#   cold_start: 0.1          # share of the steps, the first ones, that learn from the data's answers alone
#   max_new_tokens: 128

"""

_LANGUAGE_TRAINING = """\
training:
  epochs: 1
  batch_size: 8
  learning_rate: 1e-3
  warmup: 0.1
  # precision: bf16          # arithmetic of the forward pass, where the machine has it; fp32 without this line
  # activation_checkpointing: true       # less memory, a third more arithmetic
  # quantization: {precision: q4_0}      # train with the rounding of an export: q8_0, q4_0, int8 or int4
  # parallel: fsdp           # under torchrun: weights are sharded; ddp: each process holds all of them
  # device: auto
  # extra: {dataloader_num_workers: 2}   # any other field of transformers.TrainingArguments

budget:                      # checked before work where possible; a missed one gives exit code 3
  max_params: 50%            # a number, or a share of the teacher's

export:
  - {kind: gguf, precision: q8_0}   # for llama.cpp; or f16, q4_0
  # - {kind: onnx, precision: int8}   # for onnxruntime and transformers.js; or fp32, fp16, int4

# policy:                    # where the teacher's terms are unknown or forbid it: record why you may
#   decision: allow
#   reason: our own model
#   decided_by: me

report:
  examples: on               # off for private data
  # energy: {carbon: {intensity: 56, source: my grid operator, year: 2025, pue: 1.0}}   # grams a kWh; absent: none told
"""

_OBJECTIVES = """\
objectives:                  # a weighted sum; docs/objectives.md lists the kinds
  - {kind: forward_kl, temperature: 2.0}
  - {kind: hidden, distance: cosine, layers: last, pool: mean}

"""

_TAIL = """\
  # device: auto
  # extra: {dataloader_num_workers: 2}   # any other field of transformers.TrainingArguments

budget:                      # checked before work where possible; a missed one gives exit code 3
  max_params: 10%            # a number, or a share of the teacher's
  min_retention: 0.95        # test metric over the teacher's
  # max_bytes: 5%
  # max_latency_ms: 5

export:
  - {kind: onnx, precision: int8}
# - {kind: web}                # for transformers.js; `attar serve` runs either in your browser
# - {kind: litert, precision: int8}   # for Android; or openvino, executorch: docs/edge.md

# policy:                    # where the teacher's terms are unknown or forbid it: record why you may
#   decision: allow
#   reason: our own model
#   decided_by: me

report:
  examples: on               # off for private data
  # energy: {carbon: {intensity: 56, source: my grid operator, year: 2025, pue: 1.0}}   # grams a kWh; absent: none told
"""

TEMPLATES = {
    "text_classification": _HEAD + _TEXT + _OBJECTIVES + _TEXT_TRAINING + _TAIL,
    "image_classification": _HEAD + _IMAGE + _OBJECTIVES + _IMAGE_TRAINING + _TAIL,
    "causal_lm": _HEAD + _LANGUAGE + _LANGUAGE_TRAINING,
}


def template(task: str) -> str:
    """The commented recipe for a task's kind. Raises RecipeError for an unknown one."""
    if task not in TEMPLATES:
        raise RecipeError(
            f'--task: "{task}" is not a task.{did_you_mean(task, TEMPLATES)} Allowed: {listed(TEMPLATES)}.'
        )
    return TEMPLATES[task]
