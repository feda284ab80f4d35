"""The registry of judges: what is known of each before anything is loaded.

A judge is one file of this folder, which holds a [`Scorer`] and a function decorated with [`register_judge`]. Choices,
help, defaults, tables and docs come from here. Help reads all these files: they import torch only where they load.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..errors import InputError
from ..scorers import Scorer


@dataclass(frozen=True)
class Judge:
    """
    A judge that has been chosen, not loaded yet.

    Args:
        name (`str`): What it is called.
        columns (`dict[str, str]`): The names of its scores in tables, and which attribute of a result has each. Higher
            is better.
        load (`Callable`): Loads what it needs, and returns its [`Scorer`].
        settings (`dict[str, Any]`, *optional*): All that its scores depend on.
        reads_references (`bool`, *optional*, defaults to `False`): Whether it compares with references.
    """

    name: str
    columns: dict[str, str]
    load: Callable[[], Scorer]
    settings: dict[str, Any] = field(default_factory=dict)
    reads_references: bool = False

    @classmethod
    def of(cls, scorer: Scorer) -> Judge:
        """Any scorer as a judge, with one column of its name."""
        return cls(
            scorer.name, {scorer.name: "score"}, lambda: scorer, dict(scorer.settings()), scorer.reads_references
        )


@dataclass(frozen=True)
class RegisteredJudge:
    """
    A judge that can be chosen.

    Args:
        name (`str`): By which it is chosen.
        columns (`dict[str, str]`): See [`Judge`].
        needs (`str`): What it needs, in a few words for help and docs.
        prepare (`Callable`): Takes options by keyword, returns the settings and what loads the scorer.
        cost (`str`): What it does with each summary, in a few words that tell how long it takes.
        reads_references (`bool`): Whether it compares with references.
        needs_hub (`bool`): Whether it loads a model of the Hub unless told otherwise; then it is no default.
        is_slow (`bool`): Whether it takes much longer than `quals`; then it is no default.
    """

    name: str
    columns: dict[str, str]
    needs: str
    prepare: Callable[..., tuple[dict[str, Any], Callable[[], Scorer]]]
    cost: str
    reads_references: bool
    needs_hub: bool
    is_slow: bool

    @property
    def options(self) -> tuple[str, ...]:
        """The names of its options."""
        return tuple(inspect.signature(self.prepare).parameters)

    def choose(self, options: Mapping[str, Any]) -> Judge:
        """The judge with those of the options that are its own; what is `None` is left out."""
        own = {name: options[name] for name in self.options if options.get(name) is not None}
        settings, load = self.prepare(**own)
        return Judge(self.name, self.columns, load, settings, self.reads_references)


_REGISTERED: dict[str, RegisteredJudge] = {}


def register_judge(
    name: str,
    *,
    columns: dict[str, str],
    needs: str,
    cost: str = "cost not told",
    reads_references: bool = False,
    needs_hub: bool = False,
    is_slow: bool = False,
) -> Callable[[Callable], Callable]:
    """
    Makes a judge of the function that prepares it, which loads nothing yet.

    Args:
        name (`str`): Its name, that of its scorer.
        columns, needs, cost, reads_references, needs_hub, is_slow: Fields of [`RegisteredJudge`].

    Raises:
        `ValueError`: if another judge has the name.

    Example:

    ```python
    >>> @register_judge("bartscore", columns={"BARTScore": "score"}, needs="a BART of the Hub", needs_hub=True)
    ... def prepare(*, bartscore_model: str = "facebook/bart-large-cnn"):
    ...     return {"model": bartscore_model}, lambda: BartScorer.from_pretrained(bartscore_model)
    ```
    """

    def register(prepare: Callable) -> Callable:
        if name in _REGISTERED:
            raise ValueError(f"There is a judge {name!r} already. Give this one another name.")
        _REGISTERED[name] = RegisteredJudge(name, columns, needs, prepare, cost, reads_references, needs_hub, is_slow)
        return prepare

    return register


def registered_judges() -> dict[str, RegisteredJudge]:
    """All judges by name, in alphabetical order."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    return dict(sorted(_REGISTERED.items()))


def default_judges(with_references: bool, *, with_slow: bool = False) -> list[str]:
    """
    The judges that need no Hub and, unless they are wanted, are not slow; those that compare with references only if
    there are any.
    """
    return [
        judge.name
        for judge in registered_judges().values()
        if not judge.needs_hub and (with_slow or not judge.is_slow) and (with_references or not judge.reads_references)
    ]


def costs(chosen: Sequence[str], with_references: bool) -> str:
    """What the chosen judges will do, and of those left out, which are to be had by name; a line a judge."""
    known = registered_judges()
    left_out = [
        judge
        for judge in known.values()
        if judge.name not in chosen and (with_references or not judge.reads_references)
    ]
    lines = ["Judges:", *(f"  {name}: {known[name].cost}" for name in chosen)]
    if left_out:
        wanted = ",".join([*chosen, left_out[0].name])
        lines += [f"Left out (ask for one with --judges {wanted}):"]
        lines += [f"  {judge.name}: {judge.cost}" for judge in left_out]
    return "\n".join(lines)


def make_judges(names: Sequence[str], **options: Any) -> list[Judge]:
    """
    Judges by their names. None loads its model yet.

    Args:
        names (`Sequence[str]`): Names of [`registered_judges`].
        **options: Options of any of them, such as `model`, the QAGen of `quals` and `qags`; left out if `None`.

    Raises:
        [`InputError`]: for a name that is unknown or given twice.
        `TypeError`: for an option that no judge has.
    """
    if isinstance(names, str):
        raise InputError(f"names is a list of judges, got the string {names!r}.")
    known = registered_judges()
    for number, name in enumerate(names):
        if name not in known:
            raise InputError(f"No judge is called {name!r}. Known are {', '.join(known)}.")
        if name in names[:number]:
            raise InputError(f"The judge {name!r} is named twice.")
    all_options = {option for judge in known.values() for option in judge.options}
    for option in options:
        if option not in all_options:
            raise TypeError(f"No judge has the option {option!r}. Known are {', '.join(sorted(all_options))}.")
    return [known[name].choose(options) for name in names]


def qagen_settings(name_or_path: str | None, dtype: str, device: str | None) -> dict[str, str | None]:
    """What a judge's scores depend on that loads a QAGen: its name, its weights, and the type they are computed in."""
    return {
        "model": name_or_path or f"default of hf-quals {__version__}",
        "weights": weights_of(name_or_path),
        "dtype": computed_dtype(dtype, device),
    }


def computed_dtype(dtype: str, device: str | None) -> str:
    """
    The type that a QAGen's weights are computed in, which `"auto"` chooses by the device: `"float32"`, ….

    Raises:
        [`InputError`]: for a type or a device that is not known here.
    """
    from ..qagen.loading import resolve_device, resolve_dtype

    return str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch.")


def weights_of(name_or_path: str | None = None) -> str | None:
    """
    What tells a judge's model from others of its name ([`~hf_quals.qagen.identity.weights_identity`]); `None` if there
    is no such model, which loading it says best.

    Raises:
        `OSError`: if the base of the default model cannot be had, which would be tried again to load it.
    """
    from ..qagen.identity import weights_identity

    try:
        return weights_identity(name_or_path)
    except (OSError, ValueError):
        if name_or_path is None:
            raise
        return None
