"""When S+ and S- are refreshed in a training, and when its summaries are shown: Trainer's events, and little else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset
from transformers import Seq2SeqTrainer, TrainerCallback
from transformers.utils import logging

from ..errors import InputError
from ..files import nan_to_none
from ..scorers import Scorer
from .checks import check_arguments, check_batches, check_weights, try_step
from .config import QualsCallbackConfig
from .data import NEGATIVE_LABELS, ContrastiveDataset
from .evaluation import evaluate_sample, sample_rows, table_metrics, write_page, write_table
from .preferences import preferences
from .refresh import STATE_NAME, KeptRefresh, RefreshState, refresh
from .rows import TextRows
from .sampling import CandidateSampler
from .scoring import check_scorer
from .selection import share_of
from .tables import log_table


# `push_to_hub` leaves out what begins with an underscore: the documents in it may be private.
FOLDER_NAME = "_quals"

logger = logging.get_logger(__name__)


class QualsCallback(TrainerCallback):
    """
    Chooses S+ and S- for a [`ContrastiveSeq2SeqTrainer`] (https://huggingface.co/papers/2105.04623, section 3.2).

    Before the first step, and at the start of every `refresh_every`-th epoch, it samples candidates for each training
    document from the current model, scores them and (once in a run) the references, and narrows the training set to
    the triples of [`select_triples`], or, with `include_rest`, gives their rows a negative. The first refresh fixes
    their number; before it, a step is tried on a row or two. At evaluations, and before training if there will be any,
    it summarizes a fixed sample, adds `eval_quals` and `eval_quals_unscored` to the metrics, and shows document,
    reference, candidate and score of each in `output_dir/_quals/eval-STEP.jsonl` and, where `report_to` names them, in
    ClearML, Comet, DagsHub, MLflow, TensorBoard, Trackio and Weights & Biases. Beside the file lies a page,
    `eval-STEP.html`, that shows why each is doubted. Another scorer gives metrics and columns its own name, and a page
    if it has one.

    Processes share the work; candidates depend on `args.seed`, the epoch and the document, not on batches or their
    number. State is saved in every checkpoint: a run that was killed at any moment and is resumed ends with the same
    weights.

    Args:
        scorer (`Scorer`): Scores summaries: a [`QualsScorer`], or any object that meets [`~hf_quals.Scorer`].
        config (`QualsCallbackConfig`, *optional*): How candidates are sampled, selected and evaluated; as published if
            left out.
        document_column (`str`, *optional*): Column of the datasets with the document's text; `input_ids` are decoded
            if left out, with any prefix or prompt they hold.
        reference_column (`str`, *optional*): Column with the reference's text; `labels` are decoded if left out.

    Attributes:
        state (`RefreshState` or `None`): What the last refresh found.

    Raises:
        `ValueError`: if `scorer` is no [`~hf_quals.Scorer`].

    Example:

    ```python
    >>> from hf_quals import ContrastiveSeq2SeqTrainer, QualsCallback, QualsScorer
    >>> trainer = ContrastiveSeq2SeqTrainer(..., callbacks=[QualsCallback(QualsScorer.from_pretrained())])
    ```
    """

    def __init__(
        self,
        scorer: Scorer,
        config: QualsCallbackConfig | None = None,
        *,
        document_column: str | None = None,
        reference_column: str | None = None,
    ):
        check_scorer(scorer)
        self.scorer, self.config = scorer, config or QualsCallbackConfig()
        self.document_column, self.reference_column = document_column, reference_column
        self.state: RefreshState | None = None
        self._attached: Seq2SeqTrainer | None = None
        self._checkpoint: str | None = None
        self._data_digest = ""
        # Of each set the rows, and the results behind them if the scorer can explain them.
        self._tables: dict[str, tuple[list[dict[str, Any]], list[Any] | None]] = {}

    def preference_dataset(self) -> Dataset:
        """
        S+ and S- of the last refresh as preferences, for TRL's `DPOTrainer` and others.

        `chosen` and `rejected` go on where `prompt`, what the model reads, ends. All three are the texts of the tokens
        that are trained on.

        Returns:
            `Dataset`: columns `prompt`, `chosen` and `rejected`, a row a triple.

        Raises:
            `ValueError`: if nothing was refreshed yet, or the callback belongs to no trainer.

        Example:

        ```python
        >>> trainer.train()
        >>> callback.preference_dataset().to_json("preferences.jsonl")
        ```
        """
        if self.state is None:
            raise ValueError(
                "There are no S+ and S- yet: train first, or take those of a checkpoint with load_preference_dataset."
            )
        return preferences(self.state, self._rows(self._dataset.dataset, "training"))

    # ---- What the trainer calls, where no event of Trainer would do ----

    def attach(self, trainer: Seq2SeqTrainer) -> None:
        """Refuses arguments and data that cannot work. Events hand over neither data sets nor the accelerator."""
        self._attached = trainer
        check_arguments(trainer, self.config)
        dataset: Any = trainer.train_dataset
        if dataset is not None:
            rows = self._rows(dataset, "training")
            if NEGATIVE_LABELS in dataset[0]:
                raise InputError(
                    f"The training set has a column {NEGATIVE_LABELS!r}, which a QualsCallback fills: leave it out, "
                    "or train on it without the callback."
                )
            num_triples = self.config.num_triples
            if num_triples is not None and num_triples > len(rows):
                raise ValueError(f"num_triples={num_triples}, but the training set has {len(rows)} documents.")
            # All rows, now: a refresh may take hours before it meets the last one.
            self._data_digest = rows.digest(show_progress_bar=self._shows_progress)
        for name, evaluation_set in self._evaluation_sets().items():
            self.check(evaluation_set, name)

    def check(self, dataset: Any, name: str) -> None:
        """Refuses a set whose sample cannot be scored."""
        if self.config.num_eval_samples:
            rows = self._rows(dataset, name)
            for row in sample_rows(len(rows), self.config.num_eval_samples, self._args.seed):
                _ = rows[row]

    def begin(self, checkpoint: str | None) -> None:
        """A run begins, or goes on from a checkpoint. At `on_train_begin` the schedule of steps is made already."""
        self.state, self._checkpoint = None, checkpoint
        if self._trainer.train_dataset is not None:
            self._dataset.show_all()

    def choose(self) -> None:
        """The first selection of a run, on whose number of rows the schedule of steps depends."""
        trainer, documents = self._trainer, self._dataset.dataset
        check_batches(trainer, self._most_rows)
        if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            try_step(trainer, self._rows(documents, "training"), self.config)
        if self.state is not None and self.state.epoch:
            # Smaller batches were found on the way (`auto_find_batch_size`), and training begins anew.
            self.begin(self._checkpoint)
        if self._checkpoint is not None:
            self._apply(self._load(Path(self._checkpoint)))
        elif self.state is None and self.config.num_triples is None and not self.config.include_rest:
            self._refresh(epoch=0)
        elif self.state is None:
            # Their number is all that the schedule needs; they are chosen once the model is wrapped.
            rows = range(self._most_rows)
            self._dataset.set_triples(rows, [[] for _ in rows])
        check_batches(trainer, len(self._dataset))

    def evaluate(
        self,
        dataset: Any,
        metric_key_prefix: str,
        gen_kwargs: dict[str, Any],
        generated: list[list[int]] | None = None,
    ) -> dict[str, float]:
        """
        Scores summaries of a fixed sample, for metrics `{prefix}_{scorer.name}`, NaN if no summary has a score, and
        `{prefix}_{scorer.name}_unscored`, the share of those without one. At `on_evaluate` metrics are logged already.
        Where the evaluation has generated the summaries of all rows, it is these that are scored.
        """
        if not self.config.num_eval_samples:
            return {}
        with self._naming_what_takes_memory():
            table, results = evaluate_sample(
                self._sampler,
                self.scorer,
                self._rows(dataset, metric_key_prefix),
                self.config,
                seed=self._args.seed,
                generated=generated,
                **gen_kwargs,
            )
        self._tables[metric_key_prefix] = table, results
        return table_metrics(table, self.scorer.name, metric_key_prefix)

    def save_state(self, checkpoint: Path) -> None:
        """Writes what a resumed run needs into a checkpoint; a kill between the rest and `on_save` would lose it."""
        if self.state is not None:
            self.state.save(checkpoint / STATE_NAME)

    # ---- Events ----

    def on_train_begin(self, args, state, control, **kwargs):
        if self.state is None:
            self._refresh(epoch=0)
        if state.is_world_process_zero:
            self._say_what_an_epoch_is()
        if state.global_step == 0 and args.eval_strategy != "no" and not args.eval_on_start:
            # What training starts from, to compare with.
            for name, dataset in self._evaluation_sets().items():
                trainer: Any = self._trainer
                trainer.log(self.evaluate(dataset, name, trainer.generation_settings()))
                self.on_evaluate(args, state, control)

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = math.floor(state.epoch or 0)
        if self.state is not None and epoch > self.state.epoch and epoch % self.config.refresh_every == 0:
            self._refresh(epoch)

    def on_evaluate(self, args, state, control, **kwargs):
        # Now and not with the scores: loggers start with the first metrics they are given.
        for name, table in self._write_tables(state).items():
            trackers = self._trainer.callback_handler.callbacks
            log_table(trackers, f"{name}/{self.scorer.name}_samples", table, state.global_step)

    def on_predict(self, args, state, control, metrics, **kwargs):
        # Trainer shows its trackers nothing of predictions.
        self._write_tables(state)

    def on_save(self, args, state, control, **kwargs):
        # Finished work is kept until a complete checkpoint holds it, or nobody needs it any more.
        if args.should_save:
            KeptRefresh.remove(self._folder)

    def on_train_end(self, args, state, control, **kwargs):
        check_weights(self._trainer.model)
        self.on_save(args, state, control)

    def _write_tables(self, state: Any) -> dict[str, list[dict[str, Any]]]:
        """Writes the tables of the last evaluation, and returns those that this process shows."""
        tables, self._tables = self._tables, {}
        if not state.is_world_process_zero:
            return {}
        for name, (table, results) in tables.items():
            write_table(table, self._folder / f"{name}-{state.global_step}.jsonl")
            if results is not None:
                write_page(self.scorer, table, results, self._folder / f"{name}-{state.global_step}.html")
        return {name: table for name, (table, _) in tables.items()}

    # ---- The trainer's parts ----

    @property
    def _trainer(self) -> Seq2SeqTrainer:
        if self._attached is None:
            raise ValueError("QualsCallback works with a ContrastiveSeq2SeqTrainer: pass it in `callbacks`.")
        return self._attached

    @property
    def _args(self) -> Any:
        return self._trainer.args

    @property
    def _sampler(self) -> CandidateSampler:
        # Made anew: `model_init` and sharding replace the trainer's model.
        return CandidateSampler(self._trainer.model, self._trainer.processing_class, self._trainer.accelerator)

    @property
    def _dataset(self) -> ContrastiveDataset:
        dataset: Any = self._trainer.train_dataset
        if not isinstance(dataset, ContrastiveDataset):
            raise ValueError(
                "The trainer's training set was replaced, or QualsCallback was added after the trainer was made: pass "
                "both when the trainer is made."
            )
        return dataset

    @property
    def _folder(self) -> Path:
        return Path(self._args.output_dir or ".") / FOLDER_NAME

    @property
    def _shows_progress(self) -> bool:
        return not self._args.disable_tqdm and self._trainer.is_local_process_zero()

    def _evaluation_sets(self) -> dict[str, Any]:
        """The evaluation sets by the prefix of their metrics; none if none is to be summarized."""
        datasets: Any = self._trainer.eval_dataset
        if datasets is None or not self.config.num_eval_samples:
            return {}
        if isinstance(datasets, dict):
            return {f"eval_{name}": dataset for name, dataset in datasets.items()}
        return {"eval": datasets}

    def _rows(self, dataset: Any, name: str) -> TextRows:
        return TextRows(
            dataset,
            name,
            self._trainer.processing_class,
            is_encoder_decoder=self._sampler.is_encoder_decoder,
            document_column=self.document_column,
            reference_column=self.reference_column,
        )

    # ---- Refresh ----

    @property
    def _most_rows(self) -> int:
        """How many rows an epoch has, or, before a first selection that sets their number, can have."""
        num_documents = len(self._dataset.dataset)
        if self.config.include_rest:
            return num_documents
        if self.config.num_triples is not None:
            return self.config.num_triples
        return max(1, share_of(min(self.config.positive_share, self.config.negative_share), num_documents))

    def _say_what_an_epoch_is(self) -> None:
        """Fewer steps than the number of documents suggests change what all that counts steps means."""
        args, num_rows, num_documents = self._args, len(self._dataset), len(self._dataset.dataset)
        num_triples = len(self.state.triples) if self.state is not None else 0
        train_dataloader: Any = self._trainer.callback_handler.train_dataloader
        num_batches = len(train_dataloader)
        num_steps = math.ceil(num_batches / args.gradient_accumulation_steps)
        steps = f"{num_steps} step{'s' if num_steps > 1 else ''}"
        if self.config.include_rest:
            logger.info(f"An epoch is all {num_documents} documents, {num_triples} of them triples: {steps}.")
        elif num_rows < num_documents:
            logger.warning(
                f"An epoch is {num_triples} triples of {num_documents} documents: {steps}. warmup_steps, eval_steps "
                "and save_steps count these. QualsCallbackConfig(include_rest=True) keeps all other rows, with the "
                "likelihood alone."
            )

    def _settings(self) -> dict[str, Any]:
        """All that candidates and scores depend on beside the model's weights, as JSON's types."""
        model: Any = self._trainer.model
        generation: dict[str, Any] = json.loads(model.generation_config.to_json_string())
        generation.pop("transformers_version", None)
        of_scorer = dict(self.scorer.settings())
        if of_scorer.get("weights") is not None:
            of_scorer.pop("model", None)  # its weights tell a model, wherever it lies
        settings = {
            **self.config.candidate_settings(),
            "scorer": self.scorer.name,
            **{f"scorer.{name}": value for name, value in of_scorer.items()},
            **{f"generation_config.{name}": value for name, value in generation.items()},
            "seed": self._args.seed,
            "data": self._data_digest,
        }
        try:
            return json.loads(json.dumps(nan_to_none(settings), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"settings() of the scorer {self.scorer.name!r} must hold JSON's types: {error}."
            ) from error

    def _refresh(self, epoch: int) -> None:
        seed, sampler, settings = self._args.seed, self._sampler, self._settings()
        check_weights(sampler.model)
        with self._naming_what_takes_memory():
            state = refresh(
                sampler,
                self.scorer,
                self._rows(self._dataset.dataset, "training"),
                self.config,
                epoch=epoch,
                seed=seed,
                previous=self.state,
                kept=KeptRefresh(self._folder, sampler.model, {**settings, "epoch": epoch}),
                show_progress_bar=self._shows_progress,
            )
        state.settings = {**settings, **self.config.selection_settings()}
        self._apply(state)

    @contextmanager
    def _naming_what_takes_memory(self) -> Iterator[None]:
        """`auto_find_batch_size` would make the batches of training smaller, again and again and in vain."""
        try:
            yield
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise RuntimeError(
                f"Memory was too small to sample and score {self.config.batch_size} documents with "
                f"{self.config.num_candidates} candidates at once: set QualsCallbackConfig(batch_size=…) to less. The "
                "batches of training have no part in it."
            ) from error

    def _apply(self, state: RefreshState) -> None:
        self.state = state
        negative_of = dict(zip((triple.document for triple in state.triples), state.negatives(), strict=True))
        rows = range(len(self._dataset.dataset)) if self.config.include_rest else list(negative_of)
        self._dataset.set_triples(rows, [negative_of.get(row, []) for row in rows])

    def _load(self, checkpoint: Path) -> RefreshState:
        path = checkpoint / STATE_NAME
        if not path.exists():
            raise ValueError(
                f"{checkpoint} holds no {STATE_NAME}: it was not written with a QualsCallback. Load its model and "
                "train anew instead of resuming."
            )
        state = RefreshState.load(path)
        num_documents = len(self._dataset.dataset)
        if len(state.reference_scores) != num_documents:
            raise ValueError(
                f"{path} was written for {len(state.reference_scores)} documents, the training set has "
                f"{num_documents}: resume with the same training set."
            )
        settings = {**self._settings(), **self.config.selection_settings()}
        if state.settings.get("data") != settings["data"]:
            raise InputError(
                f"{path} was written for another training set, with other documents or references or in another "
                "order: resume with the same, or load the checkpoint's model and train anew."
            )
        changed = [
            f"{name} was {state.settings.get(name)!r} and is {settings.get(name)!r}"
            for name in sorted({*state.settings, *settings})
            if state.settings.get(name) != settings.get(name)
        ]
        if changed:
            raise InputError(
                f"{path} was written with other settings: {', '.join(changed)}. Resume with the same, or load the "
                "checkpoint's model and train anew."
            )
        return state
