"""FactCC: a classifier of a document and each sentence of its summary."""

import functools

import evaluate

from hf_quals.judges.factcc import FACTCC, FactccScorer
from hf_quals.metrics.source_metric import FEATURES, SourceMetric


_CITATION = """\
@inproceedings{kryscinski-etal-2020-evaluating,
    title = "Evaluating the Factual Consistency of Abstractive Text Summarization",
    author = "Kryscinski, Wojciech and McCann, Bryan and Xiong, Caiming and Socher, Richard",
    booktitle = "Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing (EMNLP)",
    year = "2020",
    publisher = "Association for Computational Linguistics",
    url = "https://aclanthology.org/2020.emnlp-main.750",
    doi = "10.18653/v1/2020.emnlp-main.750",
}
"""

_DESCRIPTION = """\
FactCC measures whether summaries stay with the facts of their documents: a classifier reads the document and each
sentence of the summary, and says how probable it is that the one supports the other.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): The summaries. A blank one is not scored.
    sources (`list[str]`): The document of each.
    model_id (`str`, *optional*, defaults to `"manueldeprada/FactCC"`): A classifier of (document, claim) pairs: folder
        or Hub id of a FactCC or a model of natural language inference.
    consistent_label (`str`, *optional*): Which of its labels says that the document supports the claim. Left out: the
        one called `correct`, `consistent`, `entailment`, `entailed` or `supported`, in any case.
    batch_size (`int`, *optional*, defaults to 8): Inputs of a model computed together; bounds memory.
    device (`str`, *optional*): `cpu`, `cuda`, `cuda:1`, `mps`; left out: the best there is.
    return_details (`bool`, *optional*, defaults to `False`): Whether to return what each score rests on.

Returns:
    factcc (`float`): Mean over the scored summaries, from 0 to 1; higher is better; `None` if none was scored.
    scores (`list[float]`): Of each summary the mean probability of its sentences; `None` where it is blank.
    num_unscored (`int`): How many have none.
    details (`list[dict]`): With `return_details`, of each summary its `sentences` and their `probabilities`; `None`
        for a blank one.

Example:
    >>> import evaluate
    >>> from hf_quals import metrics
    >>> factcc = evaluate.load(metrics.path("factcc"))
    >>> results = factcc.compute(
    ...     predictions=["Klitschko is hurt. Lewis says so.", "Lewis is hurt.", ""],
    ...     sources=["Lewis believes that Klitschko is hurt."] * 3,
    ...     return_details=True,
    ... )
    >>> right, wrong, blank = results["scores"]
    >>> blank, results["num_unscored"]
    (None, 1)
    >>> results["details"][0]["sentences"]
    ['Klitschko is hurt.', 'Lewis says so.']
"""


@functools.lru_cache(maxsize=1)
def _scorer(model_id: str, consistent_label: str | None, device: str | None) -> FactccScorer:
    return FactccScorer.from_pretrained(model_id, consistent_label=consistent_label, device=device)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Factcc(SourceMetric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=FEATURES,
            reference_urls=["https://huggingface.co/papers/1910.12840"],
        )

    def _compute(
        self,
        predictions,
        sources,
        model_id=FACTCC,
        consistent_label=None,
        batch_size=8,
        device=None,
        return_details=False,
    ):
        scorer = _scorer(model_id, consistent_label, device)
        return self.judge(scorer, predictions, sources, batch_size=batch_size, return_details=return_details)
