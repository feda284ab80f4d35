"""QAGS, which asks about a summary and compares answers: score, question writers, readers, a file each."""

from .scorer import QagsQuestion as QagsQuestion
from .scorer import QagsResult as QagsResult
from .scorer import QagsScorer as QagsScorer
