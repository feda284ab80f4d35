"""Factual consistency for the Hugging Face stack: question–answer pairs, the QUALS score, contrastive training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING


__version__ = "0.1.0"

_MODULE_OF = {
    "ContrastiveSeq2SeqTrainer": "contrastive.trainer",
    "ContrastiveSeq2SeqTrainingArguments": "contrastive.trainer",
    "DataCollatorForContrastiveSeq2Seq": "contrastive.data",
    "QualsCallback": "contrastive.callback",
    "QualsCallbackConfig": "contrastive.config",
    "load_preference_dataset": "contrastive.preferences",
    "select_triples": "contrastive.selection",
    "QAGenModel": "qagen.model",
    "QAPair": "qagen.model",
    "QATemplate": "qagen.template",
    "QUESTION_SEP_ANSWER": "qagen.template",
    "diverse_beam_search": "qagen.decoding",
    "QualsConfig": "quals.config",
    "QualsResult": "quals.scorer",
    "QualsScorer": "quals.scorer",
    "Ranking": "best_of",
    "Scorer": "scorers",
    "ScoredPair": "quals.scorer",
    "as_reward": "scorers",
    "generate_best_of": "best_of",
    "rerank": "best_of",
}

_PACKAGES = ("judges", "metrics")

__all__ = sorted([*_MODULE_OF, *_PACKAGES])

if TYPE_CHECKING:
    from . import judges as judges
    from . import metrics as metrics
    from .best_of import Ranking as Ranking
    from .best_of import generate_best_of as generate_best_of
    from .best_of import rerank as rerank
    from .contrastive.callback import QualsCallback as QualsCallback
    from .contrastive.config import QualsCallbackConfig as QualsCallbackConfig
    from .contrastive.data import DataCollatorForContrastiveSeq2Seq as DataCollatorForContrastiveSeq2Seq
    from .contrastive.preferences import load_preference_dataset as load_preference_dataset
    from .contrastive.selection import select_triples as select_triples
    from .contrastive.trainer import ContrastiveSeq2SeqTrainer as ContrastiveSeq2SeqTrainer
    from .contrastive.trainer import ContrastiveSeq2SeqTrainingArguments as ContrastiveSeq2SeqTrainingArguments
    from .qagen.decoding import diverse_beam_search as diverse_beam_search
    from .qagen.model import QAGenModel as QAGenModel
    from .qagen.model import QAPair as QAPair
    from .qagen.template import QUESTION_SEP_ANSWER as QUESTION_SEP_ANSWER
    from .qagen.template import QATemplate as QATemplate
    from .quals.config import QualsConfig as QualsConfig
    from .quals.scorer import QualsResult as QualsResult
    from .quals.scorer import QualsScorer as QualsScorer
    from .quals.scorer import ScoredPair as ScoredPair
    from .scorers import Scorer as Scorer
    from .scorers import as_reward as as_reward


def __getattr__(name: str):
    # torch and transformers take seconds to import; a name is loaded when it is first used.
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__():
    return __all__
