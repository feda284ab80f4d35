"""
Does the best of several samples, chosen by QUALS, stay closer to the facts than greedy search?

Summarizes SciTLDR's abstracts greedily, by one sample, and by the best of 6, and prints one table of judges: QUALS,
which has chosen; ROUGE against the reference; entity precision and offline QAGS, which have not, though QAGS asks with
the same QAGen. Each with its interval, and its paired difference to greedy search.

    python recipes/benchmarks/best_of.py --dataset scitldr/test.jsonl --model_name_or_path results/scitldr/mle \\
        --output_dir results/best_of

`--limit 2` tries it; `--dtype float32` is faster where a processor has no bfloat16. What is written and scored is kept
in `output_dir`: the same command goes on where it was cut off.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, HfArgumentParser

from hf_quals import QualsScorer, generate_best_of
from hf_quals.comparing.run import compare_systems
from hf_quals.comparing.systems import Comparison
from hf_quals.files import read_json_lines, read_kept_lines
from hf_quals.judges.registry import make_judges
from hf_quals.judges.rouge import RougeScorer
from hf_quals.memory import reuse_freed_memory


sys.path.insert(0, str(Path(__file__).parents[1]))

from common import base_and_adapter


@dataclass
class Arguments:
    """Who summarizes what, and who judges."""

    dataset: str = field(
        metadata={"help": "SciTLDR, JSON lines of `source`, a list of sentences, and `target`, a list of summaries."}
    )
    output_dir: str = field(metadata={"help": "Where summaries and scores are kept; a second run goes on from them."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "The summarizer or its adapter; SmolLM2-135M-Instruct if left out."}
    )
    limit: int | None = field(default=None, metadata={"help": "Take the first so many documents."})
    n: int = field(default=6, metadata={"help": "Samples a document."})
    prompt: str | None = field(default=None, metadata={"help": "What the model reads, as that of conseq.py."})
    max_document_length: int = field(default=1024, metadata={"help": "The most tokens of a document and its prompt."})
    max_new_tokens: int = field(default=40, metadata={"help": "The most tokens of a summary."})
    judges: list[str] = field(
        default_factory=lambda: ["quals", "rouge", "entity", "qags"], metadata={"help": "Who judges."}
    )
    quals_model: str | None = field(default=None, metadata={"help": "The QAGen; the package's default if left out."})
    dtype: str = field(default="auto", metadata={"help": "Type of the summarizer's weights."})


def read_rows(path: str, limit: int | None) -> list[tuple[str, str]]:
    """Documents and references: sentences are joined, and of several summaries the first counts."""
    rows = read_json_lines(path)
    return [(" ".join(row["source"]), row["target"][0]) for row in rows[:limit]]


def summarize(rows: list[tuple[str, str]], args: Arguments) -> list[list[str]]:
    """Of each document the summary of greedy search, the first sample, and the best, kept in `summaries.jsonl`."""
    names = ("model_name_or_path", "n", "prompt", "max_document_length", "max_new_tokens", "quals_model", "dtype")
    settings = {name: getattr(args, name) for name in names}
    path = Path(args.output_dir, "summaries.jsonl")
    kept = read_kept_lines(path)
    for line, (document, _) in zip(kept, rows, strict=False):
        if line["settings"] != settings or line["document"] != document:
            raise ValueError(f"{path} holds summaries of other documents or settings: name another --output_dir.")
    if len(kept) < len(rows):
        model, tokenizer = load_summarizer(args)
        scorer = QualsScorer.from_pretrained(args.quals_model)
        options = {name: settings[name] for name in ("prompt", "max_document_length", "max_new_tokens")}
    with path.open("a", encoding="utf-8") as file:
        for document, reference in tqdm(rows[len(kept) :], initial=len(kept), total=len(rows), desc="Summaries"):
            # With one candidate any scorer will do.
            greedy_options = {**options, "top_k": 1, "scorer": RougeScorer(), "references": [reference]}
            [greedy] = generate_best_of(model, tokenizer, [document], 1, **greedy_options)
            [sampled] = generate_best_of(model, tokenizer, [document], args.n, scorer=scorer, **options)
            summaries = [greedy.best, sampled.candidates[0], sampled.best]
            kept.append({"settings": settings, "document": document, "summaries": summaries})
            file.write(json.dumps(kept[-1], ensure_ascii=False) + "\n")
            file.flush()
    return [line["summaries"] for line in kept[: len(rows)]]


def load_summarizer(args: Arguments):
    """The model, with its adapter if it has one, and its tokenizer."""
    base, adapter = base_and_adapter(args.model_name_or_path)
    is_encoder_decoder = AutoConfig.from_pretrained(base).is_encoder_decoder
    auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    model = auto_class.from_pretrained(base, dtype=args.dtype)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval(), tokenizer


def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if not Path(args.dataset).is_file():
        print(f"{args.dataset} is not there: nothing is measured. Name a file with --dataset.")
        return
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    rows = read_rows(args.dataset, args.limit)
    summaries = summarize(rows, args)
    comparisons = [
        Comparison(document, tuple(texts), (f"document {number}",) * len(texts), reference)
        for number, ((document, reference), texts) in enumerate(zip(rows, summaries, strict=True))
        if all(text.strip() for text in texts)
    ]
    num_blank = len(rows) - len(comparisons)
    systems = ["greedy", "one sample", f"best of {args.n}"]
    folder = Path(args.output_dir, f"scores-{len(rows)}")
    table = compare_systems(
        comparisons, systems, make_judges(args.judges, model=args.quals_model), folder, resume=True
    )
    print(f"{num_blank} of {len(rows)} documents are left out: one of their summaries is blank.\n")
    print(table.to_markdown())


if __name__ == "__main__":
    main()
