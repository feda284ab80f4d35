"""Refreshes what a ContrastiveSeq2SeqTrainer imitates and avoids, and shows at evaluations how faithful it writes."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import LogitsProcessorList, TrainerCallback
from transformers.utils import logging

from ..quals.scorer import QualsScorer
from .data import ContrastiveDataset, has_rows
from .losses import IGNORE_INDEX
from .refresh import FOLDER_NAME, STATE_NAME, Candidates, KeptRefresh, RefreshState
from .sampling import SeededTopKSampling
from .selection import select_triples
from .tables import log_table


if TYPE_CHECKING:
    from .trainer import ContrastiveSeq2SeqTrainer

logger = logging.get_logger(__name__)


class QualsCallback(TrainerCallback):
    """
    Chooses S+ and S- for a [`ContrastiveSeq2SeqTrainer`] (https://huggingface.co/papers/2105.04623, section 3.2).

    Before the first step, and at the start of every `refresh_every`-th epoch, it samples candidates for each training
    document from the current model, scores them and (once in a run) the references, and narrows the training set to
    the triples of [`select_triples`]. The first refresh fixes their number. At evaluations, and before training if
    there will be any, it summarizes a fixed sample, adds `eval_quals` and `eval_quals_unscored` to the metrics, and
    shows document, reference, candidate and score of each in `output_dir/_quals/eval-STEP.jsonl` and, where
    `report_to` names them, in ClearML, Comet, DagsHub, MLflow, TensorBoard, Trackio and Weights & Biases.

    Processes share the work; candidates depend on `args.seed`, the epoch and the document, not on batches or their
    number. State is saved in every checkpoint: a run that was killed at any moment and is resumed ends with the same
    weights.

    Args:
        scorer (`QualsScorer`): Scores summaries against documents; `None` for a subclass that overrides `score`.
        document_column (`str`, *optional*): Column of the datasets with the document's text; `input_ids` are decoded
            if left out, with any prefix or prompt they hold.
        reference_column (`str`, *optional*): Column with the reference's text; `labels` are decoded if left out.
        num_candidates (`int`, *optional*, defaults to 6): Samples a document.
        top_k (`int`, *optional*, defaults to 50): Tokens to sample from at each step.
        max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a candidate; the paper takes 60 for
            XSum-like and 140 for CNN/DM-like data.
        positive_share (`float`, *optional*, defaults to 0.3): Share of the documents in S+.
        negative_share (`float`, *optional*, defaults to 0.3): Share of the documents in S-.
        num_triples (`int`, *optional*): How many triples an epoch has; what the first selection has if left out. FSDP
            and DeepSpeed need it.
        refresh_every (`int`, *optional*, defaults to 1): Epochs between two refreshes. An epoch is one pass over the
            triples: with `num_triples` N times the rows of a step, there is a refresh every N steps.
        num_eval_samples (`int`, *optional*, defaults to 32): Documents summarized at an evaluation; 0 for none.
        batch_size (`int`, *optional*, defaults to 8): Documents computed together; bounds memory.

    Raises:
        `ValueError`: if a number is out of range, or `scorer` is none.

    Example:

    ```python
    >>> from hf_quals import ContrastiveSeq2SeqTrainer, QualsCallback, QualsScorer
    >>> trainer = ContrastiveSeq2SeqTrainer(..., callbacks=[QualsCallback(QualsScorer.from_pretrained())])
    ```
    """

    def __init__(
        self,
        scorer: QualsScorer | None,
        *,
        document_column: str | None = None,
        reference_column: str | None = None,
        num_candidates: int = 6,
        top_k: int = 50,
        max_new_tokens: int = 60,
        positive_share: float = 0.3,
        negative_share: float = 0.3,
        num_triples: int | None = None,
        refresh_every: int = 1,
        num_eval_samples: int = 32,
        batch_size: int = 8,
    ):
        self.scorer = scorer
        self.document_column, self.reference_column = document_column, reference_column
        self.num_candidates, self.top_k, self.max_new_tokens = num_candidates, top_k, max_new_tokens
        self.positive_share, self.negative_share, self.num_triples = positive_share, negative_share, num_triples
        self.refresh_every, self.num_eval_samples, self.batch_size = refresh_every, num_eval_samples, batch_size
        for name in ("num_candidates", "top_k", "max_new_tokens", "refresh_every", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if num_eval_samples < 0:
            raise ValueError(f"num_eval_samples must be at least 0, got {num_eval_samples}.")
        if num_triples is not None and num_triples < 1:
            raise ValueError(f"num_triples must be at least 1, got {num_triples}.")
        select_triples([], [], positive_share=positive_share, negative_share=negative_share)  # checks the shares
        if scorer is None:
            if type(self).score is QualsCallback.score:
                raise ValueError("QualsCallback needs a scorer: QualsCallback(QualsScorer.from_pretrained()).")
        elif not isinstance(scorer, QualsScorer):
            raise ValueError(
                f"scorer must be a QualsScorer, got {scorer!r}: load one with QualsScorer.from_pretrained(...)."
            )
        self.state: RefreshState | None = None
        self._trainer: ContrastiveSeq2SeqTrainer | None = None
        self._data_digest = ""
        self._tables: dict[str, list[tuple[str, str, str, float]]] = {}

    def score(self, documents: Sequence[str], summaries: Sequence[str], references: Sequence[str]) -> list[float]:
        """
        Scores summaries; higher is better. Override it to choose S+ and S- by another score.

        Args:
            documents (`Sequence[str]`): The documents.
            summaries (`Sequence[str]`): A summary of each, never blank.
            references (`Sequence[str]`): The reference of each, which QUALS does not need.

        Returns:
            `list[float]`: the scores, NaN for a summary that cannot be scored.
        """
        assert self.scorer is not None
        return [result.score for result in self.scorer.score(documents, summaries, batch_size=self.batch_size)]

    # ---- What the trainer calls ----

    def check(self, trainer: ContrastiveSeq2SeqTrainer) -> None:
        """Refuses arguments and data that cannot work; before training starts."""
        args: Any = trainer.args
        dataset: Any = trainer.train_dataset
        self._trainer = trainer
        if args.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers=True keeps workers that never see a refreshed S-: set it to False."
            )
        if args.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
            raise ValueError(
                f"train_sampling_strategy={args.train_sampling_strategy!r} measures the lengths once, but each "
                "refresh changes the rows: use 'random' or 'sequential'."
            )
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            if self.num_triples is None:
                raise ValueError(
                    "FSDP and DeepSpeed shard the model once the schedule of steps is known, and nothing can be "
                    "sampled before to set the number of triples: give QualsCallback num_triples."
                )
            if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
                raise ValueError("Models sharded by FSDP 1 cannot generate: set fsdp_version to 2.")
        if dataset is not None:
            self._check_training_set(trainer, dataset)
        self._check_evaluation_sets(trainer)

    def _check_training_set(self, trainer, dataset: Any) -> None:
        _refuse_without_rows("training", dataset)
        if self.num_triples is not None and self.num_triples > len(dataset):
            raise ValueError(f"num_triples={self.num_triples}, but the training set has {len(dataset)} documents.")
        # All rows, now: a refresh may take hours before it meets the last one.
        digest = hashlib.sha256()
        numbers = tqdm(
            range(len(dataset)),
            desc="Checking the training set",
            disable=trainer.args.disable_tqdm or not trainer.is_local_process_zero(),
        )
        for number in numbers:
            row = dataset[number]
            texts = self._texts(trainer, row, f"Row {number} of the training set")
            digest.update(repr([list(row["input_ids"]), list(row["labels"]), texts]).encode())
        self._data_digest = digest.hexdigest()

    def _check_evaluation_sets(self, trainer) -> None:
        if not self.num_eval_samples:
            return
        for name, dataset in _evaluation_sets(trainer).items():
            _refuse_without_rows(name, dataset)
            for number in self._sample(trainer, dataset):
                self._texts(trainer, dataset[number], f"Row {number} of the {name} set")

    def forget(self) -> None:
        """Shows the whole training set again: a new run begins."""
        self.state = None
        trainer = self._running()
        if trainer.train_dataset is not None:
            trainer.train_dataset = ContrastiveDataset(_wrapped(trainer.train_dataset).dataset)

    def prepare(self, trainer: ContrastiveSeq2SeqTrainer, checkpoint: str | None) -> None:
        """The first selection of a run: read from the checkpoint it goes on from, or made now."""
        if self.state is not None and checkpoint is None:
            return  # the dataloader is made anew, for instance with a smaller batch
        if checkpoint is None:
            if self.num_triples is None:
                self._refresh(epoch=0)
            else:
                # Their number is all that the schedule needs; they are chosen once the model is wrapped.
                rows = range(self.num_triples)
                _wrapped(trainer.train_dataset).set_triples(rows, [[] for _ in rows])
            return
        path = Path(checkpoint) / STATE_NAME
        if not path.exists():
            raise ValueError(
                f"{checkpoint} holds no {STATE_NAME}: it was not written with a QualsCallback. Load its model and "
                "train anew instead of resuming."
            )
        state = RefreshState.load(path)
        dataset = _wrapped(trainer.train_dataset)
        if len(state.reference_scores) != len(dataset.dataset):
            raise ValueError(
                f"{path} was written for {len(state.reference_scores)} documents, the training set has "
                f"{len(dataset.dataset)}: resume with the same training set."
            )
        self._apply(state)

    def save_state(self, checkpoint: Path) -> None:
        """Writes all that a resumed run needs into a checkpoint's folder."""
        if self.state is not None:
            self.state.save(checkpoint / STATE_NAME)

    # ---- Events ----

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self._running()
        if self.state is None:
            self._refresh(epoch=0)
        if state.global_step == 0 and args.eval_strategy != "no" and not args.eval_on_start:
            # What training starts from, to compare with.
            for name, dataset in _evaluation_sets(trainer).items():
                metrics = self.evaluate(trainer, dataset, name)
                trainer.log(metrics)
                self.on_evaluate(args, state, control)

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = math.floor(state.epoch or 0)
        if self.state is not None and epoch > self.state.epoch and epoch % self.refresh_every == 0:
            self._refresh(epoch)

    def on_evaluate(self, args, state, control, **kwargs):
        # Now and not with the scores: loggers start with the first metrics they are given.
        tables, self._tables = self._tables, {}
        if state.is_world_process_zero:
            for name, table in tables.items():
                self._show(self._running(), name, table)

    def on_save(self, args, state, control, **kwargs):
        self._remove_kept()

    def on_train_end(self, args, state, control, **kwargs):
        self._remove_kept()

    def _remove_kept(self) -> None:
        """Finished work is kept until a complete checkpoint holds it, or nobody needs it any more."""
        if self._running().args.should_save:
            KeptRefresh.remove(self._running())

    # ---- Refresh ----

    def _refresh(self, epoch: int) -> None:
        trainer = self._running()
        dataset = _wrapped(trainer.train_dataset)
        rows = range(len(dataset.dataset))
        known = self.state.reference_scores if self.state else None
        kept = KeptRefresh(
            trainer, {**self.settings(), **self._scorer_settings(), "epoch": epoch, "data": self._data_digest}
        )
        found = kept.load()
        with trainer.accelerator.split_between_processes(list(rows), apply_padding=True) as mine:
            batches = [mine[first : first + self.batch_size] for first in range(0, len(mine), self.batch_size)]
            # Whole batches, and the same on every process, so that an interrupted refresh computes what an unbroken
            # one would, and all processes call the model equally often.
            finished = gather_object([[all(row in found for row in batch) for batch in batches]])
            progress = tqdm(
                [batch for batch, *done in zip(batches, *finished, strict=True) if not all(done)],
                desc=f"Candidates of epoch {epoch}",
                disable=trainer.args.disable_tqdm or not trainer.is_local_process_zero(),
            )
            for batch in progress:
                of_batch = self._sample_and_score(trainer, dataset.dataset, batch, epoch, known)
                kept.append(of_batch)
                found.update(of_batch)
        # Rows of the padding come twice, with equal results.
        gathered = dict(gather_object(list(found.items()))) if trainer.args.world_size > 1 else found
        reference_scores = [gathered[row][0] for row in rows]
        candidates = [gathered[row][1] for row in rows]
        candidate_scores = [of_document.scores for of_document in candidates]
        num_triples = len(self.state.triples) if self.state else self.num_triples
        triples = select_triples(
            reference_scores,
            candidate_scores,
            positive_share=self.positive_share,
            negative_share=self.negative_share,
            num_triples=num_triples,
        )
        if not triples:
            raise ValueError(
                f"No document of {len(rows)} has both a reference among the best {self.positive_share:.0%} and a "
                f"candidate among the worst {self.negative_share:.0%}: take more documents, or larger shares."
            )
        every_candidate = [score for scores in candidate_scores for score in scores]
        means = {
            "epoch": epoch,
            "reference_quals": _mean(reference_scores),
            "candidate_quals": _mean(every_candidate),
            "unscored": sum(map(math.isnan, [*reference_scores, *every_candidate])),
            "positive_quals": _mean([reference_scores[triple.document] for triple in triples]),
            "negative_quals": _mean([candidate_scores[triple.document][triple.candidate] for triple in triples]),
            "num_triples": len(triples),
        }
        history = [*(self.state.history if self.state else []), means]
        self._apply(RefreshState(epoch, reference_scores, candidates, triples, history))
        logger.info(f"S+ and S- of epoch {epoch}: {means}")

    def _apply(self, state: RefreshState) -> None:
        self.state = state
        negatives = [state.candidates[triple.document].token_ids[triple.candidate] for triple in state.triples]
        dataset = _wrapped(self._running().train_dataset)
        dataset.set_triples([triple.document for triple in state.triples], negatives)

    def _sample_and_score(
        self, trainer, dataset, batch: list[int], epoch: int, known: list[float] | None
    ) -> dict[int, tuple[float, Candidates]]:
        rows = [dataset[row] for row in batch]
        documents, references = self._columns(trainer, rows, batch, "training")
        seeds = [
            _seed(trainer.args.seed, epoch, number, sample)
            for number in batch
            for sample in range(self.num_candidates)
        ]
        sampled = self._generate(
            trainer,
            [_prompt(row, trainer.is_encoder_decoder) for row in rows],
            do_sample=True,
            num_beams=1,
            num_return_sequences=self.num_candidates,
            logits_processor=LogitsProcessorList([SeededTopKSampling(seeds, self.top_k, self.max_new_tokens)]),
        )
        texts = [_text(trainer, ids) for ids in sampled]

        to_score: dict[tuple[int, str], float] = {}
        for place in range(len(batch)):
            of_document = texts[place * self.num_candidates : (place + 1) * self.num_candidates]
            wanted = [*of_document, *([] if known else [references[place]])]
            to_score.update({(place, text): math.nan for text in wanted if text.strip()})
        keys = list(to_score)
        scores = self.score(
            [documents[place] for place, _ in keys],
            [text for _, text in keys],
            [references[place] for place, _ in keys],
        )
        to_score.update(zip(keys, scores, strict=True))

        found = {}
        for place, number in enumerate(batch):
            part = slice(place * self.num_candidates, (place + 1) * self.num_candidates)
            candidate_scores = [to_score.get((place, text), math.nan) for text in texts[part]]
            reference_score = known[number] if known else to_score[place, references[place]]
            found[number] = (reference_score, Candidates(sampled[part], texts[part], candidate_scores))
        return found

    def _generate(self, trainer, prompts: list[torch.Tensor], **gen_kwargs) -> list[list[int]]:
        """Tokens of each generated sequence, up to its end-of-sequence, that included."""
        was_training = trainer.model.training
        trainer.model.eval()
        devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), trainer.accelerator.autocast():
            generated = trainer.generate_from_prompts(prompts, max_new_tokens=self.max_new_tokens, **gen_kwargs)
        trainer.model.train(was_training)
        eos = trainer.model.generation_config.eos_token_id
        ends = set(eos if isinstance(eos, list) else [eos])
        return [_until(ids, ends) for ids in generated.tolist()]

    def _columns(self, trainer, rows, numbers: list[int], name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        texts = [
            self._texts(trainer, row, f"Row {number} of the {name} set")
            for row, number in zip(rows, numbers, strict=True)
        ]
        documents, references = zip(*texts, strict=True)
        return documents, references

    def _texts(self, trainer, row: dict[str, Any], name: str) -> tuple[str, str]:
        """Document and reference of a row; refuses a row without one."""
        for column in ("input_ids", "labels", *filter(None, (self.document_column, self.reference_column))):
            if column not in row:
                raise ValueError(f"{name} has no column {column!r}; it has {', '.join(sorted(row))}.")
        prompt = _prompt(row, trainer.is_encoder_decoder).tolist()
        reference = [token for token in torch.as_tensor(row["labels"]).tolist() if token >= 0]
        texts = []
        for given, decoded, ids in (
            (self.document_column, "input_ids", prompt),
            (self.reference_column, "labels", reference),
        ):
            text = row[given] if given else _text(trainer, ids)
            if not ids or not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"{name} has no text in column {given or decoded!r}, got {text!r}: leave out rows without "
                    "document or reference."
                )
            texts.append(text)
        return texts[0], texts[1]

    # ---- Evaluation ----

    def evaluate(self, trainer: ContrastiveSeq2SeqTrainer, dataset: Any, metric_key_prefix: str) -> dict[str, float]:
        """
        Summarizes and scores a fixed sample.

        Args:
            trainer (`ContrastiveSeq2SeqTrainer`): Whose model summarizes; by its generation settings, 1 beam if they
                name none.
            dataset (sized dataset of dictionaries): Documents and references as in the training set.
            metric_key_prefix (`str`): Goes before the names of the metrics.

        Returns:
            `dict[str, float]`: `{prefix}_quals`, NaN if no summary has a score, and `{prefix}_quals_unscored`, the
            share of those without one.
        """
        numbers = self._sample(trainer, dataset)
        if not numbers:
            return {}
        found: dict[int, tuple[str, str, str, float]] = {}
        with trainer.accelerator.split_between_processes(numbers, apply_padding=True) as mine:
            for first in range(0, len(mine), self.batch_size):
                batch = mine[first : first + self.batch_size]
                rows = [dataset[number] for number in batch]
                documents, references = self._columns(trainer, rows, batch, "evaluation")
                prompts = [_prompt(row, trainer.is_encoder_decoder) for row in rows]
                num_beams = trainer.args.generation_num_beams or trainer.model.generation_config.num_beams or 1
                generated = self._generate(trainer, prompts, do_sample=False, num_beams=num_beams)
                texts = [_text(trainer, ids) for ids in generated]
                held = [place for place, text in enumerate(texts) if text.strip()]
                scored = self.score(*([column[place] for place in held] for column in (documents, texts, references)))
                scores = dict(zip(held, scored, strict=True))
                for place, number in enumerate(batch):
                    found[number] = (documents[place], references[place], texts[place], scores.get(place, math.nan))
        gathered = dict(gather_object(list(found.items()))) if trainer.args.world_size > 1 else found
        table = [gathered[number] for number in numbers]
        scores_of_all = [row[3] for row in table]
        self._tables[metric_key_prefix] = table
        return {
            f"{metric_key_prefix}_quals": _mean(scores_of_all),
            f"{metric_key_prefix}_quals_unscored": sum(map(math.isnan, scores_of_all)) / len(table),
        }

    def _sample(self, trainer, dataset: Any) -> list[int]:
        size = min(self.num_eval_samples, len(dataset))
        return sorted(random.Random(trainer.args.seed).sample(range(len(dataset)), size))

    def _show(self, trainer, name: str, table: list[tuple[str, str, str, float]]) -> None:
        columns = ("document", "reference", "candidate", "quals")
        # NaN is no JSON, and no table shows it better than nothing.
        rows = [dict(zip(columns, (*row[:3], None if math.isnan(row[3]) else row[3]), strict=True)) for row in table]
        path = Path(trainer.args.output_dir) / FOLDER_NAME / f"{name}-{trainer.state.global_step}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(path)
        log_table(trainer.callback_handler.callbacks, f"{name}/quals_samples", rows, trainer.state.global_step)

    def settings(self) -> dict[str, Any]:
        """What S+ and S- are chosen with, as JSON's types."""
        names = ("num_candidates", "top_k", "max_new_tokens", "positive_share", "negative_share", "refresh_every")
        return {name: getattr(self, name) for name in names}

    def _scorer_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"score": type(self).__qualname__}
        if self.scorer is not None:
            settings |= self.scorer.settings()
        return settings

    def _running(self) -> ContrastiveSeq2SeqTrainer:
        if self._trainer is None:
            raise ValueError("QualsCallback works with a ContrastiveSeq2SeqTrainer: pass it in `callbacks`.")
        return self._trainer


def _refuse_without_rows(name: str, dataset: Any) -> None:
    if not has_rows(dataset):
        raise ValueError(
            f"QualsCallback reads single rows of the {name} set: it must have a length, indices and a row at least, "
            f"and {type(dataset).__name__} has not."
        )


def _evaluation_sets(trainer: ContrastiveSeq2SeqTrainer) -> dict[str, Any]:
    """The evaluation sets by the prefix of their metrics."""
    if isinstance(trainer.eval_dataset, dict):
        return {f"eval_{name}": dataset for name, dataset in trainer.eval_dataset.items()}
    return {} if trainer.eval_dataset is None else {"eval": trainer.eval_dataset}


def _wrapped(dataset: Any) -> ContrastiveDataset:
    if not isinstance(dataset, ContrastiveDataset):
        raise ValueError(
            "The trainer's training set was replaced, or QualsCallback was added after the trainer was made: pass "
            "both when the trainer is made."
        )
    return dataset


def _prompt(row: dict[str, Any], is_encoder_decoder: bool) -> torch.Tensor:
    """The document's tokens (encoder–decoder) or the prompt's (decoder-only), without padding."""
    ids = torch.as_tensor(row["input_ids"])
    held = torch.as_tensor(row["attention_mask"]).bool() if "attention_mask" in row else torch.ones_like(ids).bool()
    if not is_encoder_decoder:
        held = held & (torch.as_tensor(row["labels"]) == IGNORE_INDEX)
    return ids[held]


def _text(trainer, ids: list[int]) -> str:
    return trainer.processing_class.decode(ids, skip_special_tokens=True).strip()


def _until(ids: list[int], ends: set[int]) -> list[int]:
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in ends), ids)


def _seed(*numbers: int) -> int:
    """A seed of 63 bits that depends on all numbers."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _mean(scores: Sequence[float]) -> float:
    scored = [score for score in scores if not math.isnan(score)]
    return fmean(scored) if scored else math.nan
