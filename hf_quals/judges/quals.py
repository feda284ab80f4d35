"""QUALS as a judge among the others; the score itself is in [`hf_quals.quals`]."""

from __future__ import annotations

from .. import __version__
from .registry import register_judge, weights_of


@register_judge("quals", columns={"QUALS": "score"}, needs="the default model, or another QAGen")
def prepare(*, model: str | None = None):
    def load():
        from ..quals.scorer import QualsScorer

        return QualsScorer.from_pretrained(model)

    from ..quals.config import find_config

    settings = {"model": model or f"default of hf-quals {__version__}", "weights": weights_of(model)}
    return {**settings, **find_config(model).to_dict()}, load
