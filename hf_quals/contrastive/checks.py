"""What can be known before hours of sampling and scoring, and before weights are saved.

Nothing here changes a training: a trial of a step leaves weights, gradients and random states as they were.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import Seq2SeqTrainer, get_scheduler

from ..qagen.proof import undisturbed
from .config import QualsCallbackConfig
from .data import NEGATIVE_LABELS
from .losses import IGNORE_INDEX
from .refresh import local_parts
from .rows import TextRows
from .sampling import CandidateSampler


def check_arguments(trainer: Seq2SeqTrainer, config: QualsCallbackConfig) -> None:
    """Refuses what keeps old rows, what ends an evaluation, and a model sharded so that it cannot be sampled from."""
    args: Any = trainer.args
    if args.predict_with_generate:
        model: Any = trainer.model
        for name, wanted in (("num_return_sequences", 1), ("return_dict_in_generate", False)):
            value = getattr(model.generation_config, name)
            if (value or wanted) != wanted:
                raise ValueError(
                    f"predict_with_generate=True takes the tokens of one summary a document, but the model's "
                    f"generation_config has {name}={value!r}: set it to {wanted!r}."
                )
    check_settings(args, config, is_sharded=trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
    if trainer.get_tp_size() > 1:
        raise ValueError(
            "Tensor parallelism splits each row over processes, which would sample and score for other documents at "
            "the same time: train without it, or with negatives of your own in a column `negative_labels`."
        )
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        raise ValueError("Models sharded by FSDP 1 cannot generate: set fsdp_version to 2.")


def check_settings(args: Any, config: QualsCallbackConfig, *, is_sharded: bool) -> None:
    """Refuses training arguments that no model and no data can make good."""
    if args.dataloader_persistent_workers:
        raise ValueError(
            "dataloader_persistent_workers=True keeps workers that never see a refreshed S-: set it to False."
        )
    if args.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} measures the lengths once, but each "
            "refresh changes the rows: use 'random' or 'sequential'."
        )
    if is_sharded and config.num_triples is None and not config.include_rest:
        raise ValueError(
            "FSDP and DeepSpeed shard the model once the schedule of steps is known, and nothing can be sampled "
            "before to set the number of triples: give QualsCallbackConfig num_triples, or include_rest=True."
        )


def check_batches(trainer: Any, num_rows: int) -> None:
    """Refuses an epoch of so few rows that no batch of it is left."""
    accelerator = trainer.accelerator
    num_needed = trainer._train_batch_size * (1 if accelerator.split_batches else accelerator.num_processes)
    if trainer.args.dataloader_drop_last and num_rows < num_needed:
        raise ValueError(
            f"dataloader_drop_last=True leaves no step: an epoch has {num_rows} triples at most, and the batches of "
            f"all processes take {num_needed}. Set it to False, or choose smaller batches, larger shares, a larger "
            "num_triples, or include_rest=True."
        )


def check_weights(model: Any) -> None:
    """
    Refuses a model that training has spoilt.

    Raises:
        `FloatingPointError`: if a weight that is trained is not finite; the message names it.
    """
    for name, parameter, part in local_parts(model):
        if parameter.requires_grad and not torch.isfinite(part).all():
            raise FloatingPointError(
                f"The weights of {name} are not finite: training has diverged, and they are not saved. Go on from an "
                "earlier checkpoint with a lower learning_rate or a smaller max_grad_norm, or in bf16 instead of fp16."
            )


def check_loss(loss: torch.Tensor, step: int) -> None:
    """
    Refuses a loss that would spoil the weights.

    Raises:
        `FloatingPointError`: if it is not finite.
    """
    if not torch.isfinite(loss).all():
        raise FloatingPointError(
            f"The loss behind step {step} is {loss.item()}, and training ends before it changes the weights. Go on "
            "from the last checkpoint with a lower learning_rate or a smaller max_grad_norm, and see whether a row "
            "has no labels."
        )


def try_step(trainer: Any, rows: TextRows, config: QualsCallbackConfig) -> None:
    """
    What training and evaluations will do once a refresh has taken its hours, done for a row or two: candidates and a
    summary of two tokens, forward and backward pass of a row with a negative and of one without, the optimizer and its
    schedule. Weights, gradients, random states and the trainer's logs are to the bit what they were.

    Models that are sharded later are not tried: before, they are not what is trained.

    Raises:
        Whatever the step raises, with a note.
    """
    sampler = CandidateSampler(trainer.model, trainer.processing_class, trainer.accelerator)
    sums = trainer._sums
    try:
        with leaving_no_trace(trainer.model, trainer.accelerator.device):
            prompt = [rows[0].prompt]
            settings = {name: value for name, value in trainer.generation_settings().items() if name != "max_length"}
            with warnings.catch_warnings():
                # Some models' settings name a least length, which two tokens are below.
                warnings.filterwarnings("ignore", message="Unfeasible length constraints")
                sampler.sample(prompt, [list(range(config.num_candidates))], top_k=config.top_k, max_new_tokens=2)
                sampler.search(prompt, **{**settings, "max_new_tokens": 2})
            inputs = trainer._prepare_inputs(_contrastive_batch(trainer, rows.dataset))
            # Training puts autocast into the model's forward, when it prepares the model.
            with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
                loss = trainer.compute_loss(trainer.model, inputs)
            check_loss(loss.detach(), step=trainer.state.global_step)
            loss.backward()
        _try_optimizer(trainer)
    except Exception as error:
        error.add_note("This was a trial of one step, before anything is sampled and scored for S+ and S-.")
        raise
    finally:
        trainer._sums = sums


def _contrastive_batch(trainer: Any, dataset: Any) -> Any:
    """Two rows, or one where batches are so small, of which the first is to avoid its own summary."""
    batch = [{**dataset[row], NEGATIVE_LABELS: []} for row in range(min(2, trainer._train_batch_size, len(dataset)))]
    labels = torch.as_tensor(batch[0]["labels"])
    batch[0][NEGATIVE_LABELS] = labels[labels != IGNORE_INDEX].tolist()
    return trainer._get_collator_with_removed_columns(trainer.data_collator, "Training")(batch)


def _try_optimizer(trainer: Any) -> None:
    """Makes the optimizer, as training would later, and a schedule on a scratch one."""
    trainer.create_optimizer()
    args, num_steps = trainer.args, 100
    if trainer.lr_scheduler is None:
        get_scheduler(
            args.lr_scheduler_type,
            torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate),
            num_warmup_steps=args.get_warmup_steps(num_steps),
            num_training_steps=num_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )


@contextmanager
def leaving_no_trace(model: Any, device: torch.device) -> Iterator[None]:
    """Trains the model, and gives back gradients, buffers, modes and all random states to the bit."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with undisturbed(model, device, training=True):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for module, name, buffer, values in buffers:
                module._buffers[name] = buffer.copy_(values)
