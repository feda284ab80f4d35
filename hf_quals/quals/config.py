"""Every number of the score, saved beside a model as `quals_config.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import write_atomically
from ..qagen.default import ADAPTER_FOLDER
from ..qagen.hub import find_file
from .forms import OF_ANSWERS, VARIANTS, Calibration, is_finite


if TYPE_CHECKING:
    from .forms import Pairs

CONFIG_FILE = "quals_config.json"


@dataclass(frozen=True, kw_only=True)
class QualsConfig:
    """
    How QUALS is computed. The defaults are the published form (https://huggingface.co/papers/2105.04623), which any
    model without a `quals_config.json` gets. `docs/quals.md` says what each part is for.

    Args:
        > Parameters that control the generation of pairs

        num_beams (`int`, *optional*, defaults to 60): Sequences generated from a summary.
        num_beam_groups (`int`, *optional*): Groups of beams that avoid each other's tokens; one beam a group if left
            out.
        diversity_penalty (`float`, *optional*, defaults to 0.5): Strength of the Hamming diversity of the groups.
        min_new_tokens (`int`, *optional*, defaults to 8): The least tokens of a pair.
        max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a pair.

        > Parameters that control what is read, and which pairs count

        normal_form (`bool`, *optional*, defaults to `False`): Whether texts are brought into normal form
            ([`~hf_quals.qagen.normal_form.normalize`]) before they are tokenized and searched.
        max_length (`int`, *optional*, defaults to 1024): The most tokens of a document or summary with its markers.
        passage_words (`int`, *optional*): About how many words of a longer document are read: the passages that share
            most with the summary ([`~hf_quals.quals.passages.select_passages`]). Left out: the whole document from
            its beginning. `max_length` bounds both.
        max_pairs (`int`, *optional*, defaults to 10): The most pairs a score rests on.
        facts_first (`bool`, *optional*, defaults to `False`): Whether pairs whose answer holds a name or a number go
            before others, and questions that no such answer can answer are left out
            ([`~hf_quals.quals.pairs.is_well_formed`]).
        round_trip (`bool`, *optional*, defaults to `False`): Whether a pair counts only if the model, asked its
            question about the summary, gives its answer back. The template must put the question before the answer.

        > Parameters that control the score

        variant (`str`, *optional*, defaults to `"published"`): How pairs become a score, a name of
            `hf_quals.quals.forms.VARIANTS`.
        likelihood_weight (`float`, *optional*, defaults to 0.0): What of the summary's own likelihood is added to the
            form: this many times the mean of log p(token | document, tokens before) over the summary's tokens, read
            where a pair would begin. Questions ask for single facts; what none of them asks for is read here.
        attention_weight (`float`, *optional*, defaults to 0.0): What attention that does not rest on the document
            costs: this many times its share (1 minus [`~hf_quals.quals.forms.document_attention`]), of the
            `retrieval_heads` while the model reads the summary behind the document, is taken off. Heads that copy look
            back to where a token stands in the document; what is not there they do not find. Decoder-only models.
        retrieval_heads (`tuple[tuple[int, int], ...]`, *optional*): Layers and heads of the model
            (`recipes/find_retrieval_heads.py`), which `attention_weight` needs.
        document_answers (`bool`, *optional*, defaults to `False`): Whether the model answers each question from the
            document, too: the explanation of a low score, and full support where the document's own answer says what
            the summary's does, whatever its tokens cost. The template must put the question before the answer.
        calibration ([`~hf_quals.quals.forms.Calibration`], *optional*): How a score reads as a probability that people
            would call the summary consistent.

    Raises:
        `ValueError`: if a value is of another type, a number is out of range or the variant is unknown.
    """

    num_beams: int = 60
    num_beam_groups: int | None = None
    diversity_penalty: float = 0.5
    min_new_tokens: int = 8
    max_new_tokens: int = 60
    normal_form: bool = False
    max_length: int = 1024
    passage_words: int | None = None
    max_pairs: int = 10
    facts_first: bool = False
    round_trip: bool = False
    variant: str = "published"
    likelihood_weight: float = 0.0
    attention_weight: float = 0.0
    retrieval_heads: tuple[tuple[int, int], ...] = ()
    document_answers: bool = False
    calibration: Calibration | None = None

    def __post_init__(self):
        self._check_types()
        for name in ("num_beams", "max_new_tokens", "max_pairs", "max_length", "num_beam_groups", "passage_words"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.num_beam_groups is not None and self.num_beams % self.num_beam_groups:
            raise ValueError(
                f"num_beams={self.num_beams} must be a multiple of num_beam_groups={self.num_beam_groups}."
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens={self.min_new_tokens} must lie between 0 and max_new_tokens={self.max_new_tokens}."
            )
        penalty, num_groups = self.diversity_penalty, self.num_beam_groups or self.num_beams
        if not is_finite(penalty) or penalty < 0 or (num_groups > 1 and penalty == 0):
            raise ValueError(
                f"diversity_penalty must be a number from 0 on, and more than 0 with several groups, got {penalty!r} "
                f"with {num_groups}."
            )
        if not isinstance(self.variant, str) or self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}.")
        for name in ("likelihood_weight", "attention_weight"):
            weight = getattr(self, name)
            if not is_finite(weight) or weight < 0:
                raise ValueError(f"{name} must be a number from 0 on, got {weight!r}.")
        object.__setattr__(self, "retrieval_heads", _heads(self.retrieval_heads))  # JSON has lists
        if self.attention_weight and not self.retrieval_heads:
            raise ValueError(
                f"attention_weight={self.attention_weight} needs retrieval_heads; recipes/find_retrieval_heads.py "
                "finds those of a model."
            )
        if not isinstance(self.calibration, Calibration | None):
            raise ValueError(f"calibration must be a Calibration(slope=..., intercept=...), got {self.calibration!r}.")

    def _check_types(self) -> None:
        """JSON and YAML hold what is no number or truth value where one is meant."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{field.name} must be true or false, got {value!r}.")
            is_none = value is None and field.type == "int | None"
            if field.type in ("int", "int | None") and type(value) is not int and not is_none:
                raise ValueError(f"{field.name} must be a whole number, got {value!r}.")

    def but(self, **changes: Any) -> QualsConfig:
        """
        This configuration with other numbers. Another `variant` leaves out what is read of the summary as a whole, and
        whatever makes another score of the same pairs leaves out the calibration, which was fitted to the old one.
        """
        if changes.get("variant", self.variant) != self.variant:
            changes = {"likelihood_weight": 0.0, "attention_weight": 0.0, **changes}
        changed = replace(self, **changes)
        names = ["variant", "likelihood_weight", "attention_weight"]
        names += ["retrieval_heads"] if changed.attention_weight else []
        # An answer that agrees with the document's own is supported, whatever it costs.
        names += ["document_answers"] if changed.judges_answers else []
        is_another_score = any(getattr(changed, name) != getattr(self, name) for name in names)
        return replace(changed, calibration=None) if is_another_score and "calibration" not in changes else changed

    @property
    def judges_answers(self) -> bool:
        """Whether the form judges answers alone: `answers` and `divergence` do."""
        return self.variant in OF_ANSWERS

    @property
    def reads_whole(self) -> bool:
        """Whether the document reads the summary as a whole, too."""
        return bool(self.likelihood_weight or self.attention_weight)

    def score(
        self, pairs: Pairs, log_likelihood: float | None = None, document_attention: float | None = None
    ) -> float:
        """
        The score of a summary: the form of its pairs, its own likelihood and the attention to the document as far as
        these count.

        Args:
            pairs (`Sequence[ScoredPair]`): The kept pairs.
            log_likelihood (`float`, *optional*): The mean of log p(token | document, tokens before) over its tokens.
            document_attention (`float`, *optional*): What [`~hf_quals.quals.forms.document_attention`] gives.

        Returns:
            `float`: NaN without a pair.

        Raises:
            `ValueError`: if one of them counts and is not given.
        """
        return sum(self.parts(pairs, log_likelihood, document_attention).values())

    def parts(
        self, pairs: Pairs, log_likelihood: float | None = None, document_attention: float | None = None
    ) -> dict[str, float]:
        """
        What the score is the sum of.

        Args:
            pairs, log_likelihood, document_attention: As for [`~QualsConfig.score`].

        Returns:
            `dict[str, float]`: `pairs`, their form; and, as far as they count, `likelihood` (`likelihood_weight *
            log_likelihood`) and `attention` (`-attention_weight * (1 - document_attention)`). NaN without a pair.

        Raises:
            `ValueError`: if one of them counts and is not given.
        """
        parts = {"pairs": VARIANTS[self.variant](pairs)}
        for name, weight, value, best in (
            ("likelihood", self.likelihood_weight, log_likelihood, 0),
            ("attention", self.attention_weight, document_attention, 1),
        ):
            if weight and pairs:
                if value is None:
                    raise ValueError(f"{name}_weight={weight} needs what the document makes of the summary, got none.")
                parts[name] = -weight * (best - value)
        return parts

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        return {**asdict(self), "retrieval_heads": [list(head) for head in self.retrieval_heads]}

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Writes `quals_config.json` into `save_directory`."""
        path = Path(save_directory, CONFIG_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QualsConfig:
        """What `to_dict` made."""
        calibration = values.get("calibration")
        return cls(**{**values, "calibration": None if calibration is None else Calibration(**calibration)})

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> QualsConfig:
        """
        Reads a `quals_config.json`.

        Raises:
            [`InputError`]: if the file is not a JSON object of fields of [`QualsConfig`].
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (TypeError, AttributeError, ValueError) as error:
            known = ", ".join(field.name for field in fields(cls))
            raise InputError(f"{path} is no configuration of QUALS: {error}. Its fields are {known}.") from error


def _heads(given: Any) -> tuple[tuple[int, int], ...]:
    try:
        heads = tuple((layer, head) for layer, head in given)
    except (TypeError, ValueError):
        heads = ((-1, -1),)
    if not all(type(number) is int and number >= 0 for head in heads for number in head):
        raise ValueError(f"retrieval_heads must be pairs of a layer and a head, counted from 0, got {given!r}.")
    if len(set(heads)) < len(heads):
        raise ValueError(f"retrieval_heads must differ from each other, got {given!r}.")
    return heads


def find_config(
    name_or_path: str | os.PathLike | None = None, adapter: str | os.PathLike | None = None
) -> QualsConfig:
    """The `quals_config.json` of an adapter or a model; the published form if they have none. Loads no weights."""
    sources = (adapter, name_or_path) if name_or_path is not None else (adapter or ADAPTER_FOLDER,)
    for source in (source for source in sources if source is not None):
        try:
            path = find_file(source, CONFIG_FILE)
        except OSError:  # there is no such model, which loading it says best
            continue
        if path is not None:
            return QualsConfig.from_file(path)
    return QualsConfig()
