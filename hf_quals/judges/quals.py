"""QUALS as a judge among the others; the score itself is in [`hf_quals.quals`]."""

from __future__ import annotations

from ..errors import InputError
from .registry import qagen_settings, register_judge


@register_judge(
    "quals",
    columns={"QUALS": "score"},
    needs="the default model, or another QAGen",
    cost="a language model writes questions about each summary, and reads each document",
)
def prepare(
    *,
    model: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    num_beams: int | None = None,
    max_pairs: int | None = None,
    variant: str | None = None,
):
    from ..quals.config import find_config

    options = {"num_beams": num_beams, "max_pairs": max_pairs, "variant": variant}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        config = find_config(model).but(**given)
    except ValueError as error:
        raise InputError(str(error)) from error

    def load():
        from ..quals.scorer import QualsScorer

        return QualsScorer.from_pretrained(model, config=config, device=device, dtype=dtype)

    return {**qagen_settings(model, dtype, device), **config.to_dict()}, load
