"""
How much faster than QAGS is QUALS?

Both score the same documents and summaries in one run. At the published sizes (BART-large writes pairs for QUALS and
questions for QAGS, BERT-large reads for QAGS) weights are random and the lengths of what is written fixed, which does
not change the time; QAGS writes for 10 answers with 10 beams, asks all questions of the summary and 20 of the
document, which its reader sees in windows of 384 tokens. With the default model in all roles, real texts are scored.
Prints one table.

    python recipes/benchmarks/quals_vs_qags.py --rows rows.jsonl

Needs no file for the first part; `--rows` names JSON lines with `document` and `summary` for the second, which is left
out without. About ten minutes on two CPU cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from sizes import BERT_LARGE, SHAPES, machine, random_model, random_qagen, random_text, word_tokenizer
from transformers import AutoModelForQuestionAnswering, HfArgumentParser

from hf_quals import QAGenModel, QualsConfig, QualsScorer
from hf_quals.files import markdown_table
from hf_quals.judges.qags import QagsScorer
from hf_quals.judges.qags.readers import ExtractiveReader
from hf_quals.judges.qags.writers import Seq2SeqQuestionWriter
from hf_quals.memory import reuse_freed_memory


ANSWERS, BEAMS, ASKED = 10, 10, 20


@dataclass
class Arguments:
    """How much of what."""

    document_tokens: int = field(default=650, metadata={"help": "Tokens of a document."})
    summary_tokens: list[int] = field(default_factory=lambda: [25, 60], metadata={"help": "Tokens of the summaries."})
    pair_tokens: int = field(default=22, metadata={"help": "Tokens of a pair, and of a question of QAGS."})
    num_beams: list[int] = field(default_factory=lambda: [60, 10], metadata={"help": "Beams of QUALS."})
    batch_size: int = field(
        default=4, metadata={"help": "Summaries, each of its document, that QUALS scores together."}
    )
    rows: str | None = field(default=None, metadata={"help": "Texts for the default model; none: it is left out."})
    limit: int = field(default=4, metadata={"help": "How many of these rows."})
    device: str = field(default="cpu", metadata={"help": "Where the models compute: cpu, cuda, …"})
    only_default: bool = field(default=False, metadata={"help": "Leave the published sizes out."})


class Stages:
    """Seconds of each stage, in the order of their first call."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def shares(self) -> str:
        return ", ".join(f"{name} {part / self.total:.0%}" for name, part in self.seconds.items())


def quals(qagen: QAGenModel, documents: list[str], summaries: list[str], num_beams: int, pair_tokens: int) -> Stages:
    """QUALS of a batch of summaries, of which pairs have a fixed length and the best ten are scored."""
    stages = Stages()
    lengths = {"min_new_tokens": pair_tokens, "max_new_tokens": pair_tokens}
    beams = {"num_beams": num_beams, "num_beam_groups": num_beams}
    with stages("pairs"):
        generated = qagen.generate(summaries, batch_size=len(summaries), **beams, **lengths)
    with stages("document"):
        qagen.log_probs(documents, [pairs[:10] for pairs in generated], batch_size=len(summaries))
    return stages


def qags(writer: Seq2SeqQuestionWriter, reader: ExtractiveReader, document: str, summary: str) -> Stages:
    """QAGS of one summary: as `QagsScorer` does it, with a fixed number of answers and questions."""
    stages = Stages()
    answers = list(dict.fromkeys(summary.split()))[:ANSWERS]
    with stages("questions"):
        (written,), _ = writer.write([summary], [answers], batch_size=ANSWERS)
    questions = [one.question for one in written]
    with stages("answers of the summary"):
        reader.read([summary], [questions], batch_size=16)
    with stages("answers of the document"):
        reader.read([document], [questions[:ASKED]], batch_size=16)
    return stages


def published_sizes(args: Arguments) -> list[list[str]]:
    vocab_size = min(SHAPES["BART-large"].vocab_size, BERT_LARGE.vocab_size)
    documents = [random_text(args.document_tokens, vocab_size, seed) for seed in range(args.batch_size)]
    summaries = {
        tokens: [random_text(tokens, vocab_size, tokens + 1000 * number) for number in range(args.batch_size)]
        for tokens in args.summary_tokens
    }
    qagen = random_qagen("BART-large", args.device)
    measured = {
        (tokens, beams): quals(qagen, documents, texts, beams, args.pair_tokens)
        for tokens, texts in summaries.items()
        for beams in args.num_beams
    }
    # The same weights write the questions of QAGS.
    qagen.model.generation_config.min_length = 1 + args.pair_tokens
    writer = Seq2SeqQuestionWriter(qagen.model, qagen.tokenizer, max_new_tokens=args.pair_tokens, num_beams=BEAMS)
    tokenizer = word_tokenizer(BERT_LARGE.vocab_size, cls_token="<s>", sep_token="</s>")
    reader = ExtractiveReader(random_model(BERT_LARGE, AutoModelForQuestionAnswering, args.device), tokenizer)
    table = []
    for tokens, texts in summaries.items():
        # Its batches are those of the questions of one summary: more of them at once are no faster.
        slow = qags(writer, reader, documents[0], texts[0])
        what = f"published sizes, {tokens} tokens"
        table.append([what, "QAGS", f"{slow.total:.1f}", "1", slow.shares()])
        for beams in args.num_beams:
            stages = measured[tokens, beams]
            fast = stages.total / args.batch_size
            table.append([what, f"QUALS, {beams} beams", f"{fast:.1f}", f"{slow.total / fast:.1f}", stages.shares()])
    return table


class TimedQAGen:
    """Adds the seconds of a QAGen's methods up."""

    def __init__(self, qagen: QAGenModel, names: dict[str, str]):
        self.stages = Stages()
        for method, stage in names.items():
            setattr(qagen, method, self._timed(getattr(qagen, method), stage))

    def _timed(self, function, stage):
        def timed(*args, **kwargs):
            with self.stages(stage):
                return function(*args, **kwargs)

        return timed


def default_model(args: Arguments) -> list[list[str]]:
    rows = list(Dataset.from_json(args.rows).take(args.limit))
    documents, summaries = [row["document"] for row in rows], [row["summary"] for row in rows]
    what = f"default model, {len(rows)} real texts"
    scorers = {"QAGS": QagsScorer.from_qagen(dtype="float32", device=args.device)}
    default = QualsScorer.from_pretrained(dtype="float32", device=args.device)
    for beams in args.num_beams:
        scorers[f"QUALS, published form, {beams} beams"] = QualsScorer(default.model, QualsConfig(num_beams=beams))
    scorers["QUALS, as it comes"] = default
    table, slowest = [], None
    for name, scorer in scorers.items():
        qagen = scorer.writer.model if name == "QAGS" else scorer.model
        # The same loaded model serves several rows of the table: each has its own watch over the class's methods.
        for method in ("generate", "log_probs", "read", "answer"):
            vars(qagen).pop(method, None)
        scorer.score(documents[:1], summaries[:1])  # warms up
        names = {"generate": "pairs", "log_probs": "document", "read": "document"}
        watch = TimedQAGen(qagen, names if name != "QAGS" else {"generate": "questions", "answer": "answers"})
        start = time.perf_counter()
        scorer.score(documents, summaries)
        total = (time.perf_counter() - start) / len(rows)
        slowest = slowest or total
        table.append([what, name, f"{total:.1f}", f"{slowest / total:.1f}", watch.stages.shares()])
    return table


@torch.inference_mode()
def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    table = [] if args.only_default else published_sizes(args)
    if args.rows:
        table += default_model(args)
    print(f"{machine(device=args.device)}. Documents of {args.document_tokens} tokens at the published sizes.\n")
    print(
        markdown_table(
            ["models and texts", "judge", "seconds a summary", "times as fast", "shares"], table, num_left=2
        )
    )


if __name__ == "__main__":
    main()
