"""Models of the judges that read with others than a QAGen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..errors import InputError


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load_whole(
    auto_class: Any, name_or_path: str | os.PathLike, *, device: str | torch.device | None = None, **model_kwargs: Any
) -> PreTrainedModel:
    """
    A model with every weight from its files, in evaluation mode.

    Args:
        auto_class (`type`): The class of Transformers that loads it: `AutoModelForSequenceClassification`, ….
        name_or_path (`str` or `os.PathLike`): A folder or Hub id.
        device (`str` or `torch.device`, *optional*): Left out: the accelerator of this process if there is one, else
            the CPU. One that is not there is refused before anything is fetched.
        **model_kwargs: Passed to `from_pretrained`.

    Raises:
        [`InputError`]: if the device is not available, or weights are missing, which would be random.
    """
    from ..qagen.adapters import shown
    from ..qagen.loading import resolve_device

    device = resolve_device(device)
    model, report = auto_class.from_pretrained(name_or_path, output_loading_info=True, **model_kwargs)
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{name_or_path} lacks weights of {type(model).__name__}: {shown(missing)}. They would be random. Name a "
            "model that was trained for this."
        )
    return model.to(device).eval()
