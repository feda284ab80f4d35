"""
How well do scores of factual consistency agree with people?

Scores the QAGS annotations (system summaries of CNN/DM and XSum articles, three human judgements a sentence) and
prints one table: Pearson and Spearman correlation with the share of a summary's sentences that most annotators call
supported, for QUALS and for baselines computed in the same run, beside published numbers.

    python recipes/benchmarks/human_correlation.py --cnndm qags_cnndm.jsonl --xsum qags_xsum.jsonl \\
        --output_dir results/human_correlation

The two files are the annotations published with "Asking and Answering Questions to Evaluate the Factual Consistency of
Summaries" (https://huggingface.co/papers/2004.04228). Scores are kept in `output_dir`; a run that was cut off goes on
where it was.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr, spearmanr
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

from hf_quals import QAGenModel, QAPair, QATemplate, QualsResult, QualsScorer, ScoredPair
from hf_quals.qagen.default import default_base_model
from hf_quals.quals.scorer import VARIANTS


# Pearson on (CNN/DM, XSum) as published: QAGS and its comparisons in 2004.04228, CTC 2109.06379, UniEval 2210.07197.
PUBLISHED = {
    "ROUGE-L": (0.357, 0.024),
    "BERTScore": (0.576, 0.024),
    "FactCC": (0.416, 0.297),
    "QAGS": (0.545, 0.175),
    "BARTScore": (0.735, 0.184),
    "CTC": (0.619, 0.309),
    "UniEval": (0.682, 0.461),
}

# How many pairs a score rests on: the published number, and one that serves summaries of several sentences better.
NUM_PAIRS = (10, 20)


@dataclass
class Arguments:
    """What to score, with which model."""

    cnndm: str = field(metadata={"help": "The QAGS annotations of CNN/DM summaries (JSON lines)."})
    xsum: str = field(metadata={"help": "The QAGS annotations of XSum summaries (JSON lines)."})
    output_dir: str = field(metadata={"help": "Where scores are kept; a second run goes on from them."})
    model: str | None = field(default=None, metadata={"help": "The QAGen model; the package's default if left out."})
    dtype: str = field(default="auto", metadata={"help": "Type of the weights."})
    batch_size: int = field(default=8, metadata={"help": "Texts computed together."})
    limit: int | None = field(default=None, metadata={"help": "Score only the first so many rows of each file."})


def read_rows(path: str) -> list[dict]:
    """Documents, summaries, and the share of each summary's sentences that most annotators call supported."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        sentences = item["summary_sentences"]
        supported = [
            sum(answer["response"] == "yes" for answer in sentence["responses"]) * 2 > len(sentence["responses"])
            for sentence in sentences
        ]
        rows.append(
            {
                "document": item["article"],
                "summary": " ".join(sentence["sentence"] for sentence in sentences),
                "human": sum(supported) / len(supported),
            }
        )
    return rows


def score_with_quals(rows: list[dict], path: Path, args: Arguments) -> tuple[list[dict], float | None]:
    """Results as dictionaries, one a row, kept in `path`; seconds a summary of what was scored now."""
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if len(results) >= len(rows):
        return results[: len(rows)], None
    # Pairs are chosen one after the other: the first 10 of 20 are those that `max_pairs=10` chooses.
    scorer = QualsScorer.from_pretrained(args.model, dtype=args.dtype, max_pairs=max(NUM_PAIRS))
    chunk = 4 * args.batch_size
    done, start = len(results), time.perf_counter()
    with path.open("a") as file:
        for first in tqdm(range(done, len(rows), chunk), desc=path.stem):
            part = rows[first : first + chunk]
            scored = scorer.score(
                [row["document"] for row in part], [row["summary"] for row in part], batch_size=args.batch_size
            )
            results += [result.to_dict() for result in scored]
            file.write("".join(json.dumps(result.to_dict()) + "\n" for result in scored))
            file.flush()
    return results, (time.perf_counter() - start) / (len(rows) - done)


def likelihoods(rows: list[dict]) -> list[float]:
    """Mean log p(token of the summary | document) of the default's base model, before it was made a QAGen."""
    base = default_base_model()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    template = QATemplate(prompt="{text}\n\nSummary:")
    model = QAGenModel(model, AutoTokenizer.from_pretrained(base), template)
    means = []
    for row in tqdm(rows, desc="log p(summary | document)"):
        ids = model.tokenizer(" " + row["summary"], add_special_tokens=False)["input_ids"]
        target = QAPair("", "", tuple(ids), (), len(ids), row["summary"])
        means.append(float(np.mean(model.log_probs([row["document"]], [[target]])[0][0])))
    return means


def result_from_dict(fields: dict) -> QualsResult:
    names = ("question", "answer", "tokens", "summary_log_probs", "document_log_probs", "answer_start")
    pairs = tuple(ScoredPair(**{name: pair[name] for name in names}) for pair in fields["pairs"])
    rest = {name: value for name, value in fields.items() if name not in ("pairs", "num_pairs", "score")}
    return QualsResult(score=float("nan") if fields["score"] is None else fields["score"], pairs=pairs, **rest)


def correlations(scores: list[float], human: list[float]) -> tuple[float, float, int]:
    """Pearson and Spearman over the rows that have a score, and how many have none."""
    scored = [(score, person) for score, person in zip(scores, human, strict=True) if not np.isnan(score)]
    ours, people = zip(*scored, strict=True)
    return pearsonr(ours, people).statistic, spearmanr(ours, people).statistic, len(scores) - len(scored)


def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    rouge = RougeScorer(["rougeL"])
    table: dict[str, list[str]] = {}
    for name, path in (("CNN/DM", args.cnndm), ("XSum", args.xsum)):
        rows = read_rows(path)[: args.limit]
        human = [row["human"] for row in rows]
        kept, seconds = score_with_quals(rows, output_dir / f"{Path(path).stem}.jsonl", args)
        results = [result_from_dict(fields) for fields in kept]
        scores = {
            f"`{variant}`, max_pairs={most}": [score(result.pairs[:most]) for result in results]
            for variant, score in VARIANTS.items()
            for most in NUM_PAIRS
        }
        scores["ROUGE-L precision against the document"] = [
            rouge.score(row["document"], row["summary"])["rougeL"].precision for row in rows
        ]
        likelihood = output_dir / f"{Path(path).stem}-likelihood.json"
        if not likelihood.exists():
            likelihood.write_text(json.dumps(likelihoods(rows)))
        log_p = json.loads(likelihood.read_text())
        scores["mean log p of the summary given the document, same base model"] = log_p[: len(rows)]
        for method, values in scores.items():
            pearson, spearman, unscored = correlations(values, human)
            table.setdefault(method, []).extend([f"{pearson:.3f}", f"{spearman:.3f}", str(unscored)])
        generated = sum(result.num_generated for result in results)
        survived = sum(result.num_pairs + result.num_surplus for result in results) / generated
        truncated = sum(result.document_truncated for result in results)
        timing = f"{seconds:.2f} s a summary" if seconds else "scored by an earlier run"
        print(
            f"{name}: {len(rows)} summaries, {survived:.0%} of generated pairs are good and distinct, "
            f"{truncated} documents truncated, {timing}"
        )
    print(f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, dtype {args.dtype}\n")
    header = ["", *(f"{data} {what}" for data in ("CNN/DM", "XSum") for what in ("Pearson", "Spearman", "unscored"))]
    print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for method, cells in table.items():
        print(f"| {method} | " + " | ".join(cells) + " |")
    for method, (cnndm, xsum) in PUBLISHED.items():
        print(f"| {method}, published | {cnndm:.3f} | | | {xsum:.3f} | | |")


if __name__ == "__main__":
    main()
