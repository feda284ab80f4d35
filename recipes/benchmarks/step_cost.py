"""
What does a contrastive step cost?

Times whole training steps (forward, backward, optimizer) of `ContrastiveSeq2SeqTrainer` on documents of 512 tokens
with an s+ and an s- of 64: a step of maximum likelihood on s+ alone, as `Seq2SeqTrainer` does it; the contrastive
step; and the same loss and gradients from two separate passes, one for s+ and one for s-, each with the document. For
an encoder–decoder and a decoder-only model, all weights and LoRA. Prints one table.

    python recipes/benchmarks/step_cost.py

Weights and tokens are random, which does not change the time. The three kinds of steps take turns in one training run,
so that all feel the same drift of the machine. Needs no file and no network; about five minutes on two CPU cores.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sizes import SHAPES, machine
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)

from hf_quals import ContrastiveSeq2SeqTrainer, ContrastiveSeq2SeqTrainingArguments
from hf_quals.contrastive.data import NEGATIVE_LABELS
from hf_quals.contrastive.losses import IGNORE_INDEX, SummaryLogits, unlikelihood
from hf_quals.files import markdown_table
from hf_quals.memory import reuse_freed_memory


MLE, CONTRASTIVE, TWO_PASSES = KINDS = ("MLE", "contrastive", "two passes")


@dataclass
class Arguments:
    """Which models, and how much of what."""

    models: list[str] = field(
        default_factory=lambda: ["BART-base", "SmolLM2-135M"],
        metadata={"help": f"{', '.join(SHAPES)}, or models of the Hub or in folders, of which the config is taken."},
    )
    batch_size: int = field(default=2, metadata={"help": "Documents a step."})
    document_tokens: int = field(default=512, metadata={"help": "Tokens of a document."})
    summary_tokens: int = field(default=64, metadata={"help": "Tokens of a summary."})
    lora_r: int = field(default=16, metadata={"help": "Rank of LoRA on all linear layers."})
    repeats: int = field(default=3, metadata={"help": "Steps of each kind; one more of each goes before, untimed."})

    def __post_init__(self):
        for name in ("batch_size", "document_tokens", "summary_tokens", "lora_r", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


class Stopwatch(TrainerCallback):
    """Seconds of each step, from the batch that is ready to the weights that are changed."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self._start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self._start)


class StepCostTrainer(ContrastiveSeq2SeqTrainer):
    """[`ContrastiveSeq2SeqTrainer`] whose every third step computes its two summaries in passes of their own."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        if KINDS[self.state.global_step % len(KINDS)] != TWO_PASSES:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        total = torch.zeros((), device=self.args.device)
        for loss in self.two_passes(model, self._prepare_inputs(inputs)):
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def two_passes(self, model, inputs) -> Iterator[torch.Tensor]:
        """
        The loss of s+ and the loss of s-; their sum is that of the contrastive step.

        Both read the logits of the summary alone, so that nothing is saved but the second document.
        """
        positive, negative = inputs["labels"], inputs[NEGATIVE_LABELS]
        documents = inputs["input_ids"]
        if not self.is_encoder_decoder:
            length = documents.shape[1] - negative.shape[1]  # all summaries are of one length
            documents, positive = documents[:, :length], positive[:, length:]
        for labels in (positive, negative):
            if self.is_encoder_decoder:
                decoder_input_ids = self.base_model.prepare_decoder_input_ids_from_labels(labels=labels)
                logits = model(documents, decoder_input_ids=decoder_input_ids, use_cache=False).logits
            else:
                ids = torch.cat([documents, labels], dim=1)
                logits = model(ids, use_cache=False, logits_to_keep=labels.shape[1] + 1).logits[:, :-1]
            summary, none = SummaryLogits(logits, labels), SummaryLogits(logits[:, :0], labels[:, :0])
            sides = (none, summary) if labels is negative else (summary, none)
            sums = unlikelihood(*sides, self.args.label_smoothing_factor)
            yield (sums.positive + sums.negative) / (positive.numel() + negative.numel())


def make_model(name: str, lora_r: int) -> Any:
    """A random model, with LoRA if there is a rank."""
    config = SHAPES.get(name) or AutoConfig.from_pretrained(name)
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto_class.from_config(config, dtype=torch.float32)
    if lora_r:
        task_type = "SEQ_2_SEQ_LM" if config.is_encoder_decoder else "CAUSAL_LM"
        model = get_peft_model(model, LoraConfig(r=lora_r, target_modules="all-linear", task_type=task_type))
    return model


def make_rows(config: Any, args: Arguments) -> Dataset:
    """The batches in their order: for each kind one, of which that of [`MLE`] has no negatives."""
    rows = []
    for kind in KINDS * (args.repeats + 1):
        for _ in range(args.batch_size):
            # Behind the special tokens.
            document, summary, negative = (
                torch.randint(5, config.vocab_size, (length,)).tolist()
                for length in (args.document_tokens, args.summary_tokens, args.summary_tokens)
            )
            labels = summary
            if not config.is_encoder_decoder:
                document, labels = document + summary, [IGNORE_INDEX] * len(document) + summary
            rows.append(
                {
                    "input_ids": document,
                    "attention_mask": [1] * len(document),
                    "labels": labels,
                    NEGATIVE_LABELS: None if kind == MLE else negative,
                }
            )
    return Dataset.from_list(rows)


def make_trainer(name: str, lora_r: int, args: Arguments, output_dir: str) -> StepCostTrainer:
    """The trainer of one row of the table, with label smoothing as in the paper's runs."""
    set_seed(0)
    model = make_model(name, lora_r)
    rows = make_rows(model.config, args)
    training_args = ContrastiveSeq2SeqTrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=args.batch_size,
        num_train_epochs=1,
        label_smoothing_factor=0.1,
        train_sampling_strategy="sequential",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    # Nothing is tokenized: only the pad token is asked for.
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    return StepCostTrainer(model=model, args=training_args, train_dataset=rows, processing_class=tokenizer)


def seconds_a_step(trainer: ContrastiveSeq2SeqTrainer) -> dict[str, float]:
    """Trains, and takes the median of each kind without its first step, which makes the optimizer's state."""
    watch = Stopwatch()
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)  # the table is all that is printed
    trainer.train()
    return {kind: median(watch.seconds[number :: len(KINDS)][1:]) for number, kind in enumerate(KINDS)}


def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    header = ("model", "weights", *(f"{kind}, s" for kind in KINDS), "contrastive / MLE", "two passes / contrastive")
    table = []
    for name in args.models:
        for lora_r in (0, args.lora_r):
            with tempfile.TemporaryDirectory() as folder:
                seconds = seconds_a_step(make_trainer(name, lora_r, args, folder))
            ratios = (seconds[CONTRASTIVE] / seconds[MLE], seconds[TWO_PASSES] / seconds[CONTRASTIVE])
            weights = f"LoRA, r={lora_r}" if lora_r else "all"
            table.append([name, weights, *(f"{seconds[kind]:.3f}" for kind in KINDS), *(f"{r:.2f}" for r in ratios)])
    print(
        f"{machine()}. {args.batch_size} "
        f"documents of {args.document_tokens} tokens a step, summaries of {args.summary_tokens}; median of "
        f"{args.repeats} steps.\n"
    )
    print(markdown_table(header, table, num_left=2))


if __name__ == "__main__":
    main()
