"""Seq2SeqTrainer with a contrastive loss for rows that have a summary to avoid."""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from peft import get_peft_model_state_dict
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints, unwrap_peft_model
from transformers.utils import logging

from ..qagen.proof import packable_length
from .callback import QualsCallback
from .card import add_contrastive_training
from .checks import check_loss, check_weights
from .data import NEGATIVE_LABELS, ContrastiveDataset, DataCollatorForContrastiveSeq2Seq
from .forward import (
    ContrastiveOutput,
    forward_decoder_only,
    forward_encoder_decoder,
    has_virtual_tokens,
    split_prompts,
)
from .losses import IGNORE_INDEX, LOSSES, ContrastiveLoss, ContrastiveSums
from .sampling import as_max_length, generate_from_prompts


if TYPE_CHECKING:
    LossOrName = str | ContrastiveLoss
else:
    # HfArgumentParser makes a flag of it, which is a name, and takes no union with a function.
    LossOrName = str

logger = logging.get_logger(__name__)


@dataclass
class ContrastiveSeq2SeqTrainingArguments(Seq2SeqTrainingArguments):
    """
    [`~transformers.Seq2SeqTrainingArguments`] and the contrastive loss.

    Args:
        contrastive_loss (`str` or `Callable`, *optional*, defaults to `"unlikelihood"`): The loss of rows with a
            negative: `"unlikelihood"` as published, `"hellinger"` or `"ranking"` (`hf_quals.contrastive.losses`), or a
            function like these ([`~hf_quals.contrastive.losses.ContrastiveLoss`]) that stands in a module. Label
            smoothing is `label_smoothing_factor`, 0.1 in the paper's runs.

    Raises:
        `ValueError`: if `contrastive_loss` is neither the name of a loss nor a function that can be saved.
    """

    contrastive_loss: LossOrName = field(
        default="unlikelihood", metadata={"help": f"Loss of rows with a negative: {', '.join(LOSSES)}."}
    )

    def __post_init__(self):
        super().__post_init__()
        if callable(self.contrastive_loss):
            try:
                # Now and not at the first checkpoint, into which Trainer pickles its arguments.
                pickle.dumps(self.contrastive_loss)
            except (AttributeError, TypeError, pickle.PicklingError) as error:
                raise ValueError(
                    f"contrastive_loss must be a function of a module, which is saved by its name, got "
                    f"{self.contrastive_loss!r}."
                ) from error
        elif self.contrastive_loss not in LOSSES:
            raise ValueError(
                f"contrastive_loss must be one of {', '.join(LOSSES)}, or a function, got {self.contrastive_loss!r}."
            )

    @property
    def contrastive_loss_name(self) -> str:
        """The name of the loss: a built-in one's, or `module.function`."""
        loss = self.contrastive_loss
        if isinstance(loss, str):
            return loss
        return f"{loss.__module__}.{loss.__qualname__}" if hasattr(loss, "__qualname__") else repr(loss)

    def to_dict(self):
        return {**super().to_dict(), "contrastive_loss": self.contrastive_loss_name}


class ContrastiveSeq2SeqTrainer(Seq2SeqTrainer):
    """
    [`~transformers.Seq2SeqTrainer`] that teaches a summarizer what not to write
    (https://huggingface.co/papers/2105.04623).

    A row with `negative_labels`, the tokens of a summary to avoid, is trained with `args.contrastive_loss`; all other
    rows exactly as `Seq2SeqTrainer` trains them. Negatives come from a [`QualsCallback`], which refreshes them each
    epoch, or from a column of the training set.

    Takes encoder–decoder models, and decoder-only models whose `input_ids` hold prompt and summary and whose `labels`
    are -100 on the prompt; for the latter `predict_with_generate` generates from the prompt alone,
    `generation_max_length` counts new tokens, and predictions hold no prompt.

    Args:
        *args, **kwargs: Those of [`~transformers.Seq2SeqTrainer`], in its order. `args` is a
            [`ContrastiveSeq2SeqTrainingArguments`]. `data_collator` batches everything but the negatives, and is
            [`~transformers.DataCollatorForSeq2Seq`] if left out.

    Raises:
        `ValueError`: if arguments, data and callbacks do not fit together; before training starts.

    Logs beside `loss`: `positive_loss` and `negative_loss`, its two parts per token of s+ and of s-, and
    `negative_prob`, the mean p(token) over the tokens of s-.
    """

    args: ContrastiveSeq2SeqTrainingArguments
    model: Any
    train_dataset: Any
    eval_dataset: Any
    _signature_columns: Any

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        model_init=None,
        compute_loss_func=None,
        compute_metrics=None,
        callbacks=None,
        optimizers=(None, None),
        preprocess_logits_for_metrics=None,
    ):
        if args is None:
            args = ContrastiveSeq2SeqTrainingArguments()
        if not isinstance(args, ContrastiveSeq2SeqTrainingArguments):
            raise ValueError(f"args must be ContrastiveSeq2SeqTrainingArguments, got {type(args).__name__}.")
        if compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func replaces the loss, and so does this trainer: choose args.contrastive_loss, or "
                "train with Seq2SeqTrainer."
            )
        if processing_class is not None or data_collator is None:
            _pad_token_id(processing_class)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if self.args.n_gpu > 1 or self.get_sp_size() > 1 or self.get_cp_size() > 1:
            raise ValueError(
                "Each process must hold whole rows: start one process a GPU (`accelerate launch`) instead of "
                "DataParallel, and do not split sequences over processes."
            )
        if self.args.load_best_model_at_end:
            self._check_checkpoints_are_whole("load_best_model_at_end=True")
        if data_collator is None:
            self.data_collator = DataCollatorForSeq2Seq(processing_class, model=self.model)
        if not isinstance(self.data_collator, DataCollatorForContrastiveSeq2Seq):
            self.data_collator = DataCollatorForContrastiveSeq2Seq(self.data_collator)
        self._sums = torch.zeros(5)
        # What is known of the set beforehand; one whose columns are not shows its negatives step by step.
        self._brings_negatives = NEGATIVE_LABELS in (getattr(train_dataset, "column_names", None) or [])
        self._step_has_negatives = self._has_seen_negatives = False
        self._packable_length: float | None = None
        self._evaluated: Any = None
        self._gen_kwargs: dict[str, Any] = {}
        self._generated: list[torch.Tensor] = []
        if self.quals_callback is not None:
            self._brings_negatives = True
            _pad_token_id(processing_class)
            self.quals_callback.attach(self)
            if self.train_dataset is not None:
                self.train_dataset = ContrastiveDataset(self.train_dataset)

    @property
    def quals_callback(self) -> QualsCallback | None:
        """The [`QualsCallback`] among the callbacks, if there is one."""
        callbacks = [callback for callback in self.callback_handler.callbacks if isinstance(callback, QualsCallback)]
        if len(callbacks) > 1:
            raise ValueError("A trainer takes one QualsCallback: there is one training set to choose from.")
        return callbacks[0] if callbacks else None

    @property
    def base_model(self):
        """The Transformers model within wrappers and adapters."""
        return unwrap_peft_model(self._unwrapped)

    @property
    def _unwrapped(self):
        """The model that is saved: without wrappers, with adapters."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the summarizer reads documents with an encoder."""
        return self.base_model.config.is_encoder_decoder

    # ---- Training ----

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        if resume_from_checkpoint:
            self._check_checkpoints_are_whole(f"resume_from_checkpoint={resume_from_checkpoint!r}")
        if resume_from_checkpoint is True:
            # Found here and not by the parent: the negatives are restored before the parent reads its own state.
            folder = Path(self.args.output_dir or ".")
            resume_from_checkpoint = last_complete_checkpoint(folder)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"No valid checkpoint found in output directory ({folder}): train without resume_from_checkpoint."
                )
        self._packable_length = None  # `model_init` makes another model
        if self.quals_callback is not None:
            self.quals_callback.begin(resume_from_checkpoint or None)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _check_checkpoints_are_whole(self, argument: str) -> None:
        """PEFT saves of p-tuning, and of a projected prefix, what the network writes, but not the network."""
        model = self._unwrapped
        if has_virtual_tokens(model):
            num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            if num_trained > sum(weight.numel() for weight in get_peft_model_state_dict(model).values()):
                raise ValueError(
                    f"{argument} reads an adapter back, but of {model.active_peft_config.peft_type} PEFT saves no "
                    "more than the virtual tokens that its network writes: training would go on with another network. "
                    "Leave it out, or choose a method that is saved whole, such as PromptTuningConfig or LoraConfig."
                )

    def get_train_dataloader(self):
        self._sums = torch.zeros(5)  # a run begins, or begins again with smaller batches
        # Here and not in on_train_begin: the schedule is computed from the number of triples, which is known only
        # after the first refresh.
        if self.quals_callback is not None and self.train_dataset is not None and self.is_in_train:
            self.quals_callback.choose()
        return super().get_train_dataloader()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if NEGATIVE_LABELS not in inputs:
            if not self._is_part_of_contrastive_step(model):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            inputs = {**inputs, NEGATIVE_LABELS: torch.full_like(inputs["labels"][:, :1], IGNORE_INDEX)}
        output = self._forward(model, inputs)
        sums = self._contrastive_loss(output.positive, output.negative, self.args.label_smoothing_factor)
        num_positive = (output.positive.labels != IGNORE_INDEX).sum()
        num_negative = (output.negative.labels != IGNORE_INDEX).sum()
        num_items = num_positive + num_negative if num_items_in_batch is None else num_items_in_batch
        loss = (sums.positive + sums.negative) / num_items
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # As the parent: gradients are averaged over processes, while the count is that of all processes.
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        self._track(sums, num_positive, num_negative)
        return (loss, output.outputs) if return_outputs else loss

    @property
    def _contrastive_loss(self) -> ContrastiveLoss:
        loss = self.args.contrastive_loss
        return LOSSES[loss] if isinstance(loss, str) else loss

    def _is_part_of_contrastive_step(self, model) -> bool:
        """
        Whether a batch without negatives shares its optimizer step with batches that have some, or belongs to a
        training set with negatives, all steps of which are to weigh alike.

        Transformers' encoder–decoder models average over the tokens of a batch whatever `num_items_in_batch` says, so
        that batches of one step would weigh differently.
        """
        several_a_step = self.args.gradient_accumulation_steps * self.args.world_size > 1
        return (
            model.training
            and self.is_encoder_decoder
            and several_a_step
            and (self._brings_negatives or self._step_has_negatives)
        )

    def _forward(self, model, inputs) -> ContrastiveOutput:
        if self.is_encoder_decoder:
            # torch.compile does not notice hooks that come and go.
            return forward_encoder_decoder(model, self.base_model, inputs, share_document=not self.args.torch_compile)
        longest = inputs["input_ids"].shape[1] + inputs[NEGATIVE_LABELS].shape[1]
        return forward_decoder_only(
            model, self.base_model, inputs, self._pad_token_id, share_document=longest <= self._prove_packing()
        )

    def _prove_packing(self) -> float:
        """Up to how many tokens s+ and s- may share a prompt; proved on the model when it is first needed."""
        if self._packable_length is None:
            is_out_of_question = self.is_encoder_decoder or has_virtual_tokens(self._unwrapped)
            self._packable_length = (
                0 if is_out_of_question else packable_length(self.base_model, cached=False, forward=self.model)
            )
        return self._packable_length

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        # With fp16, the scaler leaves such steps out and lowers its scale.
        if self.accelerator.mixed_precision != "fp16":
            check_loss(loss, self.state.global_step)
        return loss

    def _get_num_items_in_batch(self, batch_samples, device):
        negatives = [batch[NEGATIVE_LABELS] for batch in batch_samples if NEGATIVE_LABELS in batch]
        self._step_has_negatives = bool(negatives)
        self._has_seen_negatives |= self._step_has_negatives
        if self.args.world_size > 1 and not self._brings_negatives:
            of_all = self.accelerator.gather(torch.tensor([self._step_has_negatives], device=device))
            self._step_has_negatives = bool(of_all.any())
        if self._brings_negatives or self._step_has_negatives:
            # On all processes at once, and not where the first negative is met: sharded models are called in step.
            self._prove_packing()
        # The parent leaves out the first label where labels are shifted; s- is stored without its prompt.
        unshifted = [{"labels": torch.nn.functional.pad(labels, (1, 0), value=IGNORE_INDEX)} for labels in negatives]
        return super()._get_num_items_in_batch([*batch_samples, *unshifted], device)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if NEGATIVE_LABELS not in self._signature_columns:
            self._signature_columns.append(NEGATIVE_LABELS)

    # ---- Evaluation ----

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval", **gen_kwargs):
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            # Here, since the parent does not hand `gen_kwargs` on.
            metrics: dict[str, float] = {}
            for name, of_name in dataset.items():
                prefix, of_name = f"{metric_key_prefix}_{name}", name if eval_dataset is None else of_name
                metrics |= self.evaluate(of_name, ignore_keys, prefix, **gen_kwargs)
            return metrics
        self._evaluated = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        if self.quals_callback is not None and dataset is not None:
            self.quals_callback.check(self._evaluated, metric_key_prefix)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test", **gen_kwargs):
        self._evaluated = test_dataset
        if self.quals_callback is not None:
            try:
                self.quals_callback.check(test_dataset, metric_key_prefix)
            except ValueError as error:
                # Predictions need no references and no rows that can be chosen.
                logger.warning(f"Predictions are not scored. {error}")
                self._evaluated = None
        return super().predict(test_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        dataset, self._evaluated = self._evaluated, None
        self._gen_kwargs = self.generation_settings(**self._gen_kwargs)
        self._generated = []
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        generated, self._generated = self._generated, []
        if self.quals_callback is not None and dataset is not None:
            # Before the parent logs: the score is a metric like all others, good for metric_for_best_model.
            in_order = self._in_order(generated) if generated and self.args.dataloader_in_order else None
            if in_order is not None and len(in_order) < len(dataset):
                in_order = None  # dataloader_drop_last drops rows of evaluations, too
            metrics = self.quals_callback.evaluate(dataset, metric_key_prefix, self._gen_kwargs, in_order)
            output = output._replace(metrics={**(output.metrics or {}), **metrics})
        return output

    def generation_settings(self, **gen_kwargs: Any) -> dict[str, Any]:
        """
        What summaries of an evaluation are generated with beside the model's `generation_config`: what is given, else
        the training arguments' `generation_max_length` and `generation_num_beams`. If none of these three names a
        length, it is the callback's `max_new_tokens`. With a callback nothing is sampled unless `do_sample` is given:
        scores of summaries that change by chance could not be compared.
        """
        settings = {name: value for name, value in gen_kwargs.items() if value is not None}
        if self.quals_callback is not None and "generation_config" not in settings:
            settings.setdefault("do_sample", False)
        if self.args.generation_num_beams is not None:
            settings.setdefault("num_beams", self.args.generation_num_beams)
        if not settings.keys() & {"max_length", "max_new_tokens", "generation_config"}:
            if self.args.generation_max_length is not None:
                settings["max_length"] = self.args.generation_max_length
            elif self.quals_callback is not None:
                of_model = self.model.generation_config
                if of_model.max_length is None and of_model.max_new_tokens is None:
                    settings["max_new_tokens"] = self.quals_callback.config.max_new_tokens
        if "max_length" in settings:
            # Beside the `max_new_tokens` that the model's settings may name `max_length` would not count.
            of_summary = None if self.is_encoder_decoder else settings.pop("max_length")
            settings.setdefault("max_new_tokens", of_summary)
        return settings

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        # The loss of an evaluation is the likelihood's, whatever the columns.
        inputs = {name: value for name, value in inputs.items() if name != NEGATIVE_LABELS and value is not None}
        if not self.args.predict_with_generate or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **gen_kwargs)
        if self.is_encoder_decoder:
            # The parent writes Transformers' defaults into the model's settings, which are then saved with it.
            of_model = vars(self.model.generation_config)
            before = dict(of_model)
            settings = as_max_length(gen_kwargs or self._gen_kwargs, 1)
            loss, generated, labels = super().prediction_step(model, inputs, False, ignore_keys, **settings)
            of_model.update(before)
        else:
            loss, generated, labels = self._prediction_step_decoder_only(model, inputs, ignore_keys, gen_kwargs)
        if generated is not None and self.quals_callback is not None:
            self._generated.append(generated.cpu())
        return loss, generated, labels

    def _prediction_step_decoder_only(self, model, inputs, ignore_keys, gen_kwargs):
        inputs = self._prepare_inputs(inputs)
        has_labels = inputs.get("labels") is not None
        # Without labels all of it is prompt.
        labels = inputs["labels"] if has_labels else torch.full_like(inputs["input_ids"], IGNORE_INDEX)
        prompts, summaries = split_prompts({**inputs, "labels": labels})
        loss = super().prediction_step(model, dict(inputs), True, ignore_keys)[0] if has_labels else None
        settings = self.generation_settings(**(gen_kwargs or self._gen_kwargs))
        generated = generate_from_prompts(self.model, prompts, pad_token_id=self._pad_token_id, **settings)
        labels = torch.nn.utils.rnn.pad_sequence(summaries, batch_first=True, padding_value=IGNORE_INDEX)
        return loss, generated, labels if has_labels else None

    def _in_order(self, batches: list[torch.Tensor]) -> list[list[int]]:
        """What all processes generated, in the order of the evaluated rows, some of which come again at the end."""
        of_processes = gather_object([[batch.tolist() for batch in batches]])
        return [row for step in zip(*of_processes, strict=True) for batch in step for row in batch]

    # ---- Logging and saving ----

    def log(self, logs, start_time=None):
        if "loss" in logs:
            logs.update(self._parts())
        super().log(logs, start_time)

    def save_model(self, output_dir=None, _internal_call=False):
        check_weights(self.model)
        folder = Path(output_dir or self.args.output_dir or ".")
        is_checkpoint = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name)
        if self.quals_callback is not None and self.args.should_save and is_checkpoint:
            # First of all that a checkpoint holds: where the rest is there, this is too.
            self.quals_callback.save_state(folder)
        super().save_model(str(folder), _internal_call)
        if self.args.should_save:
            self._add_to_model_card(folder)

    def create_model_card(self, *args, **kwargs):
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            self._add_to_model_card(Path(self.args.output_dir or "."))

    def _add_to_model_card(self, folder: Path) -> None:
        callback = self.quals_callback
        has_trained_on_some = self._has_seen_negatives or any("negative_prob" in log for log in self.state.log_history)
        if not self._brings_negatives and not has_trained_on_some:
            return
        is_wrapped = isinstance(self.train_dataset, ContrastiveDataset)
        folder.mkdir(parents=True, exist_ok=True)  # of a sharded state dict the parent writes nothing here
        add_contrastive_training(
            folder,
            base_model=self.base_model.config._name_or_path,
            dataset=self.train_dataset.dataset if is_wrapped else self.train_dataset,
            loss=f"{self.args.contrastive_loss_name}, label smoothing {self.args.label_smoothing_factor}",
            selection=None if callback is None else callback.config.selection_settings(),
            scorer=None if callback is None else callback.scorer,
            refreshes=[] if callback is None or callback.state is None else callback.state.history,
            log_history=self.state.log_history,
        )

    @property
    def _pad_token_id(self) -> int:
        return _pad_token_id(self.processing_class)

    def _track(self, sums: ContrastiveSums, num_positive: torch.Tensor, num_negative: torch.Tensor) -> None:
        with torch.no_grad():
            probability = sums.negative_log_probs.exp().sum()
            parts = torch.stack([sums.positive, num_positive, sums.negative, num_negative, probability])
            self._sums = self._sums.to(parts.device) + parts

    def _parts(self) -> dict[str, float]:
        """Means over all processes since the last call; nothing where no row had a negative."""
        sums = self.accelerator.reduce(self._sums.to(self.args.device), reduction="sum").tolist()
        self._sums = torch.zeros(5)
        positive, num_positive, negative, num_negative, probability = sums
        if not num_negative:
            return {}
        return {
            "positive_loss": round(positive / num_positive, 4),
            "negative_loss": round(negative / num_negative, 4),
            "negative_prob": round(probability / num_negative, 4),
        }


def last_complete_checkpoint(folder: str | os.PathLike) -> str | None:
    """
    The newest checkpoint in a folder that was written to its end, `None` if there is none: the trainer's state is the
    last of its files.
    """
    checkpoints = list(map(Path, sort_checkpoints(str(folder))))
    complete = [checkpoint for checkpoint in checkpoints if _is_json(checkpoint / TRAINER_STATE_NAME)]
    if not complete:
        return None
    if complete[-1] != checkpoints[-1]:
        logger.warning(f"{checkpoints[-1]} was not written to its end: going on from {complete[-1]}.")
    return str(complete[-1])


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True


def _pad_token_id(processing_class) -> int:
    if processing_class is None:
        raise ValueError("processing_class is missing: pass the summarizer's tokenizer.")
    if processing_class.pad_token_id is None:
        raise ValueError(
            "The tokenizer has no pad token: set one before training, for instance "
            "`tokenizer.pad_token = tokenizer.eos_token`."
        )
    return processing_class.pad_token_id
