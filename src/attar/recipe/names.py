"""Fields of TrainingArguments that attar sets itself: their plain names, or why they have none."""

from __future__ import annotations

PLAIN_NAMES: dict[str, str] = {
    "output_dir": "--out",
    "overwrite_output_dir": "--out",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "per_device_train_batch_size": "training.batch_size",
    "per_device_eval_batch_size": "training.batch_size",
    "train_batch_size": "training.batch_size",
    "auto_find_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.accumulate",
    "learning_rate": "training.learning_rate",
    "lr": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "warmup_steps": "training.warmup",
    "warmup_ratio": "training.warmup",
    "lr_scheduler_type": "training.schedule",
    "max_grad_norm": "training.clip",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "fsdp": "training.parallel",
    "fsdp_config": "training.parallel",
    "activation_checkpointing": "training.activation_checkpointing",
    "activation_checkpointing_kwargs": "training.activation_checkpointing",
    "gradient_checkpointing": "training.activation_checkpointing",
    "gradient_checkpointing_kwargs": "training.activation_checkpointing",
    "use_cpu": "training.device",
    "no_cuda": "training.device",
    "seed": "training.seed",
    "data_seed": "training.seed",
    "label_smoothing_factor": "objectives[].label_smoothing",
    "eval_strategy": "training.evaluations",
    "evaluation_strategy": "training.evaluations",
    "eval_delay": "training.evaluations",
    "eval_on_start": "training.evaluations",
    "eval_steps": "training.evaluations",
    "save_strategy": "training.checkpoints",
    "save_steps": "training.checkpoints",
    "save_only_model": "training.checkpoints",
    "enable_jit_checkpoint": "training.checkpoints",
    "load_best_model_at_end": "training.keep",
    "metric_for_best_model": "task.metric",
    "greater_is_better": "task.metric",
    "logging_strategy": "training.extra.logging_steps",
    "report_to": "training.tensorboard",
    "logging_dir": "training.tensorboard",
    "run_name": "name",
    "push_to_hub": "attar push",
    "hub_token": "attar push",
    "hub_model_id": "attar push",
    "remove_unused_columns": "task",
    "label_names": "task.label",
    "do_train": "attar distill",
    "do_eval": "attar evaluate",
    "do_predict": "attar predict",
}
"""Own name by Transformers' name."""

_GROUPED = "batches are grouped by length"
_OTHER_WAY = "its training loop goes another way"
_ONE_DEVICE = "it trains on one device, or under torchrun (training.parallel)"
_FIXED: dict[str, str] = {
    "group_by_length": _GROUPED,
    "train_sampling_strategy": _GROUPED,
    "resume_from_checkpoint": "the same command again resumes",
    "restore_callback_states_from_checkpoint": "the same command again resumes",
    "disable_tqdm": "it shows a bar of its own where standard error is a terminal",
    "average_tokens_across_devices": _OTHER_WAY,
    "dataloader_drop_last": _OTHER_WAY,
    "full_determinism": _OTHER_WAY,
    "ignore_data_skip": _OTHER_WAY,
    "include_num_input_tokens_seen": _OTHER_WAY,
    "logging_nan_inf_filter": _OTHER_WAY,
    "deepspeed": _ONE_DEVICE,
    "parallelism_config": _ONE_DEVICE,
}
"""Why a field has no name here, for those that no recipe sets."""


def taken(name: str) -> str | None:
    """What is wrong with a field of this name in `training.extra`; None where attar leaves it to the recipe."""
    if name in PLAIN_NAMES:
        return f"attar sets {name} itself. Use {PLAIN_NAMES[name]} instead."
    if name in _FIXED:
        return f"attar sets {name} itself: {_FIXED[name]}. Remove it."
    return None
