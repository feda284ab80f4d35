"""
What does an epoch's refresh cost?

Six candidates of each document are sampled from the summarizer, and QUALS scores them and the reference: seconds a
document, and how they divide into sampling, writing pairs and scoring them. For growing numbers of documents, with the
process's peak of memory so far; and as a multiple of a training step of maximum likelihood on one document. Weights
are random (BART-base summarizes, `--scorer` is one of the shapes of `sizes.py`) and lengths fixed. Prints one table.

    python recipes/benchmarks/refresh_cost.py

Needs no file and no network. By default the shapes are cut to two layers, which shows growth and memory in minutes;
`--layers 0` takes them whole.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from datasets import Dataset
from quals_vs_qags import Stages, TimedQAGen
from sizes import SHAPES, machine, peak_memory, random_model, random_qagen, random_text, seconds, word_tokenizer
from transformers import HfArgumentParser

from hf_quals import QAGenModel, QualsCallbackConfig, Scorer
from hf_quals.contrastive.refresh import refresh
from hf_quals.contrastive.rows import TextRows
from hf_quals.contrastive.sampling import CandidateSampler
from hf_quals.files import markdown_table
from hf_quals.memory import reuse_freed_memory
from hf_quals.scorers import by_document


@dataclass
class Arguments:
    """How much of what."""

    scorer: str = field(default="SmolLM2-135M", metadata={"help": "The shape of the QAGen."})
    layers: int = field(default=2, metadata={"help": "Layers that are left of both models; 0 for all."})
    documents: list[int] = field(default_factory=lambda: [50, 100, 200], metadata={"help": "Numbers of documents."})
    document_tokens: int = field(default=400, metadata={"help": "Tokens of a document."})
    summary_tokens: int = field(default=25, metadata={"help": "Tokens of a summary."})
    pair_tokens: int = field(default=16, metadata={"help": "Tokens of a pair."})
    num_beams: int = field(default=30, metadata={"help": "Beams of the QAGen."})
    num_candidates: int = field(default=6, metadata={"help": "Candidates of a document."})
    device: str = field(default="cpu", metadata={"help": "Where the models compute: cpu, cuda, …"})


class FixedLengthQuals(Scorer):
    """The published score of pairs of a fixed length, which random weights do not parse into."""

    name = "quals"

    def __init__(self, qagen: QAGenModel, args: Arguments):
        self.qagen, self.args = qagen, args

    def score(self, documents, summaries, *, references=None, batch_size=8):
        distinct = list(dict.fromkeys(summaries))
        generated = self.qagen.generate(
            distinct,
            num_beams=self.args.num_beams,
            num_beam_groups=self.args.num_beams,
            min_new_tokens=self.args.pair_tokens,
            max_new_tokens=self.args.pair_tokens,
            batch_size=batch_size,
        )
        pairs = {
            summary: {pair.token_ids: pair for pair in of_summary[:10]}
            for summary, of_summary in zip(distinct, generated, strict=True)
        }
        wanted = by_document(documents, (pairs[summary] for summary in summaries))
        self.qagen.log_probs(list(wanted), [list(part.values()) for part in wanted.values()], batch_size=batch_size)
        return [_Score(sum(next(iter(pairs[summary].values())).log_probs)) for summary in summaries]


@dataclass
class _Score:
    score: float


def cut(config, layers: int):
    """A shape with fewer layers."""
    for name in ("num_hidden_layers", "encoder_layers", "decoder_layers") if layers else ():
        if hasattr(config, name):
            setattr(config, name, layers)
    return config


@torch.inference_mode()
def measure(sampler: CandidateSampler, qagen: QAGenModel, rows: TextRows, args: Arguments) -> Stages:
    """Seconds of a refresh, of which that of sampling is what QAGen's methods do not take."""
    watch = TimedQAGen(qagen, {"generate": "pairs", "log_probs": "document"})
    config = QualsCallbackConfig(num_candidates=args.num_candidates, max_new_tokens=args.summary_tokens)
    start = time.perf_counter()
    refresh(sampler, FixedLengthQuals(qagen, args), rows, config)
    of_qagen = watch.stages.total
    for method in ("generate", "log_probs"):
        vars(qagen).pop(method)
    watch.stages.seconds["sampling"] = time.perf_counter() - start - of_qagen
    return watch.stages


def seconds_a_training_step(model, rows: list[dict]) -> float:
    """The median time of forward and backward pass and optimizer on one document with its reference."""
    optimizer = torch.optim.AdamW(model.parameters())
    remaining = iter(rows)

    def step():
        row = next(remaining)
        inputs = {name: torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels")}
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    model.train()
    step()  # makes the optimizer's state
    time = seconds(step, len(rows) - 1)
    model.eval()
    return time


def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    cut(SHAPES[args.scorer], args.layers)
    qagen = random_qagen(args.scorer, args.device)
    config = cut(SHAPES["BART-base"], args.layers)
    model, tokenizer = random_model(config, device=args.device), word_tokenizer(config.vocab_size)
    sampler = CandidateSampler(model, tokenizer, Accelerator(cpu=args.device == "cpu"))
    texts = [
        (random_text(args.document_tokens, 30000, seed), random_text(args.summary_tokens, 30000, -1 - seed))
        for seed in range(max(args.documents))
    ]
    ids = [[tokenizer(text)["input_ids"] for text in pair] for pair in texts]
    dataset = Dataset.from_list(
        [
            {"input_ids": document, "attention_mask": [1] * len(document), "labels": summary}
            for document, summary in ids
        ]
    )
    table = []
    for number in args.documents:
        rows = TextRows(dataset.take(number), "training", tokenizer, is_encoder_decoder=True)
        stages = measure(sampler, qagen, rows, args)
        training = seconds_a_training_step(model, dataset.take(min(number, 6)).to_list())
        cells = [
            str(number),
            f"{stages.total / number:.2f}",
            stages.shares(),
            f"{stages.total / number / training:.1f}",
        ]
        table.append([*cells, f"{peak_memory(args.device):.1f}"])
    layers = f"{args.layers} layers" if args.layers else "all layers"
    print(
        f"{machine(device=args.device)}. BART-base samples, {args.scorer} scores, {layers} each; "
        f"{args.num_candidates} candidates and the reference of {args.summary_tokens} tokens, documents of "
        f"{args.document_tokens} tokens, {args.num_beams} beams.\n"
    )
    header = ["documents", "s a document", "shares", "refresh / training", "peak memory so far, GiB"]
    print(markdown_table(header, table, num_left=1))


if __name__ == "__main__":
    main()
