"""
What did contrastive training change on real text?

Compares the held-out predictions of several runs of `recipes/conseq.py` and prints one table: QUALS, ROUGE against
the reference, entity precision (the share of a summary's names and numbers that its document has), and how much of a
summary is copied (the share of its bigrams that its document has), each with its paired difference to the first run
and the 95 % interval of that by bootstrap over documents. Below it stand five documents with the summaries of all
runs: those at the 10th, 30th, 50th, 70th and 90th percentile of the difference in QUALS between the last run and the
first.

    python recipes/benchmarks/real_text.py --runs results/scitldr/mle results/scitldr_none/conseq \\
        results/scitldr/conseq --output_dir results/real_text

Scores are kept in `output_dir`; a run that was cut off goes on where it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from human_correlation import RougePrecision
from transformers import HfArgumentParser

from hf_quals import QualsConfig, QualsScorer
from hf_quals.comparing.run import judge_rows, kept_scores
from hf_quals.comparing.systems import Comparison
from hf_quals.contrastive.tables import markdown
from hf_quals.files import locked, read_json_lines
from hf_quals.judges.entities import entity_precision, load_finder
from hf_quals.judges.registry import Judge
from hf_quals.judges.rouge import rouge
from hf_quals.memory import reuse_freed_memory
from hf_quals.quals.config import find_config


PERCENTILES = (10, 30, 50, 70, 90)
RESAMPLES = 10_000


@dataclass
class Arguments:
    """What to compare, scored how."""

    runs: list[str] = field(metadata={"help": "Folders with a `predictions.jsonl`; the first is compared with."})
    output_dir: str = field(metadata={"help": "Where scores are kept; a second run goes on from them."})
    model: str | None = field(default=None, metadata={"help": "The QAGen; the package's default if left out."})
    dtype: str = field(default="auto", metadata={"help": "Type of its weights."})
    num_beams: int | None = field(default=None, metadata={"help": "Pairs from a summary; the model's if left out."})
    batch_size: int = field(default=8, metadata={"help": "Texts computed together."})

    def __post_init__(self):
        if len(set(self.runs)) < max(2, len(self.runs)):
            raise ValueError(f"runs must be at least two different folders, got {' '.join(self.runs)}.")


def read_predictions(runs: list[str]) -> list[dict]:
    """
    Joins the predictions of several runs.

    Args:
        runs (`list[str]`): Folders with a `predictions.jsonl`.

    Returns:
        `list[dict]`: for each document `document`, `reference` and `summaries`, one a run.

    Raises:
        `ValueError`: if the runs have summarized different documents.
    """
    of_run = [read_json_lines(Path(run, "predictions.jsonl")) for run in runs]
    for run, rows in zip(runs, of_run, strict=True):
        keys = [[(row["document"], row["reference"]) for row in part] for part in (rows, of_run[0])]
        if keys[0] != keys[1]:
            raise ValueError(f"{run} and {runs[0]} hold predictions for different documents or references.")
    return [
        {**{name: rows[0][name] for name in ("document", "reference")}, "summaries": [row["summary"] for row in rows]}
        for rows in zip(*of_run, strict=True)
    ]


def score_with_quals(rows: list[dict], config: QualsConfig, args: Arguments) -> np.ndarray:
    """QUALS of shape `(documents, runs)`, kept in `output_dir`; NaN where there is no score."""
    settings = {"model": args.model or "default", "dtype": args.dtype, **config.to_dict()}
    judge = Judge(
        "quals",
        {"score": "score"},
        lambda: QualsScorer.from_pretrained(args.model, config=config, dtype=args.dtype),
        settings,
    )
    comparisons = [Comparison(row["document"], tuple(row["summaries"]), tuple(args.runs)) for row in rows]
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "quals.jsonl"):
        kept = kept_scores(judge, comparisons, folder, resume=True)
        judged = judge_rows(judge, comparisons, kept, batch_size=args.batch_size)
    return np.array([row["score"] for row in judged], dtype=float)


def difference(scores: np.ndarray, baseline: np.ndarray) -> tuple[float, float, float]:
    """
    Mean paired difference of two runs over the documents for which both have a score.

    Args:
        scores (`np.ndarray` of shape `(documents,)`): Scores of a run.
        baseline (`np.ndarray` of shape `(documents,)`): Scores of the run to compare with.

    Returns:
        `tuple[float, float, float]`: the mean, and the ends of its 95 % interval by bootstrap over documents; NaN if
        there is no such document.
    """
    differences = (scores - baseline)[~np.isnan(scores - baseline)]
    if not len(differences):
        return math.nan, math.nan, math.nan
    means = np.random.default_rng(0).choice(differences, (RESAMPLES, len(differences))).mean(axis=1)
    return float(differences.mean()), *map(float, np.percentile(means, [2.5, 97.5]))


def sample_rows(scores: np.ndarray, baseline: np.ndarray) -> list[int]:
    """The documents at fixed percentiles of the difference, among those for which both runs have a score."""
    differences = scores - baseline
    order = [int(row) for row in np.argsort(differences, kind="stable") if not math.isnan(differences[row])]
    return [order[round(percentile / 100 * (len(order) - 1))] for percentile in PERCENTILES] if order else []


def main():
    reuse_freed_memory()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    rows = read_predictions(args.runs)
    config = find_config(args.model)
    config = config if args.num_beams is None else config.but(num_beams=args.num_beams)
    quals = score_with_quals(rows, config, args)

    metrics = {"QUALS": quals}
    for name in ("rouge1", "rouge2", "rougeL"):
        of_rows = [[100 * rouge(row["reference"], text)[name] for text in row["summaries"]] for row in rows]
        metrics[name.replace("rouge", "ROUGE-")] = np.array(of_rows)
    precision = [
        [entity_precision(row["document"], text) if text else math.nan for text in row["summaries"]] for row in rows
    ]
    metrics["entity precision"] = np.array(precision)
    documents, of_run = [row["document"] for row in rows], zip(*(row["summaries"] for row in rows), strict=True)
    copied = [[result.rouge2 for result in RougePrecision().score(documents, list(texts))] for texts in of_run]
    metrics["copied bigrams"] = np.array(copied).T
    metrics["words"] = np.array([[float(len(text.split())) for text in row["summaries"]] for row in rows])

    table = []
    for metric, scores in metrics.items():
        for number, run in enumerate(args.runs):
            column, baseline = scores[:, number], scores[:, 0]
            mean, low, high = difference(column, baseline)
            table.append(
                {
                    "metric": metric,
                    "run": run,
                    "mean": f"{np.nanmean(column):.3f}" if not np.isnan(column).all() else "NaN",
                    "without a score": int(np.isnan(column).sum()),
                    f"minus {args.runs[0]}": f"{mean:+.3f}" if number else "",
                    "95 % interval": f"{low:+.3f} to {high:+.3f}" if number else "",
                }
            )
    print(f"{len(rows)} documents, QUALS with {config.num_beams} beams, names found by {load_finder().name}\n")
    print(markdown(table))
    for percentile, row in zip(PERCENTILES, sample_rows(quals[:, -1], quals[:, 0]), strict=False):
        print(f"\nPercentile {percentile} of the difference in QUALS: {rows[row]['document']}\n")
        texts = [{"": "reference", "summary": rows[row]["reference"], "QUALS": ""}]
        for run, text, score in zip(args.runs, rows[row]["summaries"], quals[row], strict=True):
            texts.append({"": run, "summary": text, "QUALS": f"{score:.3f}"})
        print(markdown(texts))


if __name__ == "__main__":
    main()
