"""The judges of summaries, a file each: QUALS, QAGS, FactCC, ROUGE, and names and numbers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING


_MODULE_OF = {
    "EntityScorer": "entities",
    "FactccScorer": "factcc",
    "Judge": "registry",
    "QagsScorer": "qags",
    "RougeScorer": "rouge",
    "make_judges": "registry",
    "register_judge": "registry",
    "registered_judges": "registry",
}

__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from .entities import EntityScorer as EntityScorer
    from .factcc import FactccScorer as FactccScorer
    from .qags import QagsScorer as QagsScorer
    from .registry import Judge as Judge
    from .registry import make_judges as make_judges
    from .registry import register_judge as register_judge
    from .registry import registered_judges as registered_judges
    from .rouge import RougeScorer as RougeScorer


def __getattr__(name: str):
    # The command reads the registry before anything heavy is imported.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__():
    return __all__
