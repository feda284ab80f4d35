"""The paper's picture: the tokens of a pair, and how probable each is given the summary and given the document."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .explain import what_it_says, worst_first


try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("Pictures need matplotlib: pip install 'hf-quals[plot]'.") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .scorer import QualsResult, ScoredPair

# Blue and orange of Okabe and Ito, told apart with every colour vision; markers and lines differ, too.
_SUMMARY: dict[str, Any] = {"color": "#0072B2", "marker": "o", "linestyle": "-", "label": "given the summary"}
_DOCUMENT: dict[str, Any] = {"color": "#D55E00", "marker": "s", "linestyle": "--", "label": "given the document"}
_WIDTH_OF_TOKEN, _HEIGHT = 0.42, 3.6  # inches


def plot(result: QualsResult, pair: ScoredPair | None = None) -> Figure:
    """Draws the probabilities of a pair's tokens, or of those of all pairs: see [`QualsResult.plot`]."""
    pairs = worst_first(result) if pair is None else [pair]
    if not pairs:
        raise ValueError(f"There is no pair to draw: {what_it_says(result)}.")
    columns = min(2, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    width = max(5.0, 1.2 + _WIDTH_OF_TOKEN * max(len(drawn.tokens) for drawn in pairs))
    # Not pyplot: it would keep every figure, and ask for a screen.
    figure = Figure(figsize=(width * columns, _HEIGHT * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for drawn, ax in zip(pairs, axes, strict=False):
        _draw(ax, drawn)
    for ax in axes[len(pairs) :]:
        ax.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _draw(ax: Axes, pair: ScoredPair) -> None:
    positions = range(len(pair.tokens))
    for log_probs, style in ((pair.summary_log_probs, _SUMMARY), (pair.document_log_probs, _DOCUMENT)):
        ax.plot(positions, [math.exp(value) for value in log_probs], markersize=5, linewidth=1.5, **style)
    ax.axvspan(pair.answer_start - 0.5, len(pair.tokens) - 0.5, color="0.92", zorder=0)
    ax.text(pair.answer_start - 0.4, 1.1, "answer", va="center", fontsize=9, fontweight="bold", color="0.3")
    ax.text(-0.4, 1.1, "question", va="center", fontsize=9, color="0.3")
    # What a model wrote is no formula, which dollars would make of it.
    ax.set_xticks(positions, [_visible(token) for token in pair.tokens], rotation=60, ha="right")
    for number, label in enumerate(ax.get_xticklabels()):
        label.set(parse_math=False, rotation_mode="anchor", fontsize=9)
        label.set_fontweight("bold" if number >= pair.answer_start else "normal")
    ax.set_xlim(-0.5, len(pair.tokens) - 0.5)
    ax.set_ylim(-0.03, 1.19)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_ylabel("probability")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(f"score {pair.score:.2f}".replace("-", "−"), fontsize=11, loc="left")


def _visible(token: str) -> str:
    return token.strip(" ").replace("\n", "⏎") or "␣"
