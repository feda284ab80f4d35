"""
Calibrates a score: fits how it reads as a probability that people would call a summary consistent, and shows how far
that can be trusted on rows it was not fitted to.

    hf-quals score judged.jsonl --output scored.jsonl --pairs
    python recipes/calibrate.py --scored scored.jsonl --config quals_config.json --picture reliability.png

Rows need the column `consistent` (true or false, by people) beside what `hf-quals score --pairs` adds. A probability
is a logistic regression on the score (Platt scaling); the verdict's threshold is the strictest whose balanced accuracy
is within one standard error of the best; a pair is to blame if it loses more probability than 9 of 10 pairs of
consistent summaries. Reliability and the verdict's accuracy are those of five folds, each read by what the other four
fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu
from transformers import HfArgumentParser

from hf_quals import QualsConfig
from hf_quals.files import read_json_lines
from hf_quals.quals.config import CONFIG_FILE
from hf_quals.quals.forms import Calibration


FOLDS = 5
BINS = 5


@dataclass
class Arguments:
    """What was scored, and where the calibration goes."""

    scored: list[str] = field(metadata={"help": "Files of `hf-quals score --pairs`, JSON lines."})
    config: str = field(metadata={"help": "The quals_config.json to write the calibration into."})
    label_column: str = field(default="consistent", metadata={"help": "The column of people's judgements."})
    picture: str | None = field(default=None, metadata={"help": "Where the reliability goes, .png or .svg."})


def fit(scores: np.ndarray, labels: np.ndarray) -> Calibration:
    """
    Fits probability and threshold.

    Args:
        scores (`np.ndarray` of shape `(rows,)`): Scores.
        labels (`np.ndarray` of shape `(rows,)`): 1 where people call the summary consistent, else 0.

    Raises:
        `ValueError`: if all rows are of one kind.
    """
    if len(set(labels.tolist())) < 2:
        raise ValueError(
            f"A calibration needs consistent summaries and others: of {len(labels)} rows, a part of the judged ones, "
            "all are of one kind. Judge more summaries."
        )

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] * scores + parameters[1]
        # A little weight decay: rows that a threshold separates would make the slope infinite.
        return float(np.mean(np.logaddexp(0, logits) - labels * logits) + 1e-4 * parameters[0] ** 2)

    slope, intercept = minimize(loss, np.zeros(2)).x
    calibration = Calibration(round(float(slope), 4), round(float(intercept), 4))
    probabilities = np.array([calibration.probability(score) for score in scores])
    # Rounded down, so that the row that it is of stays above it.
    return replace(calibration, threshold=math.floor(strictest_threshold(probabilities, labels) * 1e4) / 1e4)


def strictest_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """
    The highest probability that, as a threshold, tells consistent rows from others as well as the best one does, to
    one standard error of that one's balanced accuracy. Few rows make many thresholds as good as each other, and to
    call a wrong summary supported is the worse mistake.
    """
    thresholds = np.unique(probabilities)
    accuracies = np.array([balanced_accuracy(probabilities >= threshold, labels) for threshold in thresholds])
    called = probabilities >= thresholds[accuracies.argmax()]
    error = sum(np.var(called[labels == kind]) / (labels == kind).sum() for kind in (0, 1)) ** 0.5 / 2
    return float(thresholds[accuracies >= accuracies.max() - error].max())


def balanced_accuracy(called: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the share of consistent rows called so and the share of others called otherwise."""
    return float((called[labels == 1].mean() + (~called[labels == 0]).mean()) / 2)


def out_of_fold(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the probability and the verdict of a calibration that has not seen it."""
    order = np.random.default_rng(0).permutation(len(scores))
    probabilities, called = np.zeros(len(scores)), np.zeros(len(scores), dtype=bool)
    for fold in np.array_split(order, FOLDS):
        others = np.setdiff1d(order, fold)
        calibration = fit(scores[others], labels[others])
        probabilities[fold] = [calibration.probability(score) for score in scores[fold]]
        called[fold] = probabilities[fold] >= calibration.threshold
    return probabilities, called


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[float, float, int]]:
    """Mean probability, share of consistent rows and number of rows, in bins of equally many rows."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), BINS)
    return [(float(probabilities[part].mean()), float(labels[part].mean()), len(part)) for part in parts if len(part)]


def plot(bins: list[tuple[float, float, int]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.plot([mean for mean, _, _ in bins], [share for _, share, _ in bins], marker="o")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability, five folds", ylabel="share that people call consistent")
    figure.savefig(path)


def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    rows = [row for path in args.scored for row in read_json_lines(path)]
    scored = [row for row in rows if row["quals"] is not None]
    scores = np.array([row["quals"] for row in scored])
    labels = np.array([int(row[args.label_column]) for row in scored])
    probabilities, called = out_of_fold(scores, labels)
    bins = reliability(probabilities, labels)
    statistic = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    print(f"{len(scored)} of {len(rows)} rows have a score, {labels.mean():.0%} of them are consistent")
    print(f"AUROC, all rows together: {statistic / (labels.sum() * (1 - labels).sum()):.3f}")
    consistent, others = (np.median(scores[labels == kind]) for kind in (1, 0))
    print(f"median score: {consistent:.3f} of consistent rows, {others:.3f} of others")
    print(f"five folds: Brier score {np.mean((probabilities - labels) ** 2):.3f}", end=" ")
    print(f"(always the mean: {labels.mean() * (1 - labels.mean()):.3f}),", end=" ")
    print(f"balanced accuracy of the verdict {balanced_accuracy(called, labels):.3f}")
    for mean, share, count in bins:
        print(f"  probability {mean:.2f}: {share:.2f} of {count} are consistent")
    if args.picture is not None:
        plot(bins, args.picture)
    lost = [pair["lost_probability"] for row in scored if row[args.label_column] for pair in row["quals_pairs"]]
    pair_threshold = round(float(np.quantile(lost, 0.9)), 4) if lost else Calibration.pair_threshold
    calibration = replace(fit(scores, labels), pair_threshold=pair_threshold)
    path = Path(args.config)
    if path.name != CONFIG_FILE:
        raise ValueError(f"config must name a {CONFIG_FILE}, got {path}.")
    config = QualsConfig.from_file(path) if path.exists() else QualsConfig()
    replace(config, calibration=calibration).save_pretrained(path.parent)
    print(f"{path}: {calibration}, half at a score of {-calibration.intercept / (calibration.slope or math.nan):.3f}")


if __name__ == "__main__":
    main()
