"""The judges of summaries, a file each: QUALS, QAGS, FactCC, ROUGE, and names and numbers."""

from .entities import EntityScorer
from .factcc import FactccScorer
from .qags import QagsScorer
from .registry import Judge, make_judges, register_judge, registered_judges
from .rouge import RougeScorer


__all__ = [
    "EntityScorer",
    "FactccScorer",
    "Judge",
    "QagsScorer",
    "RougeScorer",
    "make_judges",
    "register_judge",
    "registered_judges",
]
