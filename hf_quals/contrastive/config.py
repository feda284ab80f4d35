"""The numbers of contrastive training that a run may choose: how S+ and S- are sampled, selected and evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .selection import check_share


@dataclass
class QualsCallbackConfig:
    """
    Configuration of [`QualsCallback`]; the defaults are the paper's (https://huggingface.co/papers/2105.04623).

    Args:
        > Parameters that control the candidates

        num_candidates (`int`, *optional*, defaults to 6): Samples a document.
        top_k (`int`, *optional*, defaults to 50): Tokens to sample from at each step.
        max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a candidate; the paper takes 60 for
            XSum-like and 140 for CNN/DM-like data.

        > Parameters that control the selection

        positive_share (`float`, *optional*, defaults to 0.3): Share of the documents in S+. Choose 1.0 where all
            references score alike, as they do against themselves with ROUGE: a smaller share would take the documents
            that come first.
        negative_share (`float`, *optional*, defaults to 0.3): Share of the documents in S-.
        num_triples (`int`, *optional*): How many triples an epoch has; what the first selection has if left out. FSDP
            and DeepSpeed need it, or `include_rest`.
        include_rest (`bool`, *optional*, defaults to `False`): Whether all other rows stay in the epoch, with the
            likelihood alone, as `Seq2SeqTrainer` trains them. The paper trains on the triples alone.
        refresh_every (`int`, *optional*, defaults to 1): Epochs between two refreshes. An epoch is one pass over the
            triples, or with `include_rest` over all rows: with `num_triples` N times the rows of a step, there is a
            refresh every N steps.

        > Parameters that control the evaluation and the memory

        num_eval_samples (`int`, *optional*, defaults to 32): Documents summarized at an evaluation; 0 for none.
        batch_size (`int`, *optional*, defaults to 8): Documents sampled for, or scored, together.

    Raises:
        `ValueError`: if a number is out of range.
    """

    num_candidates: int = field(default=6, metadata={"help": "Samples a document."})
    top_k: int = field(default=50, metadata={"help": "Tokens to sample from at each step."})
    max_new_tokens: int = field(default=60, metadata={"help": "The most tokens of a generated summary."})

    positive_share: float = field(default=0.3, metadata={"help": "Share of the documents in S+."})
    negative_share: float = field(default=0.3, metadata={"help": "Share of the documents in S-."})
    num_triples: int | None = field(
        default=None, metadata={"help": "Triples an epoch; as many as the first selection has if left out."}
    )
    include_rest: bool = field(
        default=False, metadata={"help": "Train on all other rows, too, with the likelihood alone."}
    )
    refresh_every: int = field(default=1, metadata={"help": "Epochs between two selections."})

    num_eval_samples: int = field(default=32, metadata={"help": "Documents scored at evaluations during training."})
    batch_size: int = field(default=8, metadata={"help": "Documents sampled for, or scored, together."})

    def __post_init__(self):
        least = {"num_candidates": 1, "top_k": 1, "max_new_tokens": 1, "num_triples": 1, "refresh_every": 1}
        for name, smallest in {**least, "num_eval_samples": 0, "batch_size": 1}.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}.")
        for name in ("positive_share", "negative_share"):
            check_share(name, getattr(self, name))

    def candidate_settings(self) -> dict[str, Any]:
        """What candidates depend on, as JSON's types."""
        return {name: getattr(self, name) for name in ("num_candidates", "top_k", "max_new_tokens")}

    def selection_settings(self) -> dict[str, Any]:
        """What the rows of an epoch depend on, as JSON's types."""
        names = ("positive_share", "negative_share", "num_triples", "include_rest", "refresh_every")
        return {**self.candidate_settings(), **{name: getattr(self, name) for name in names}}
