"""QAGS: questions about a summary, answered from it and from its document."""

import functools

import evaluate

from hf_quals.judges.qags import QagsScorer
from hf_quals.metrics.source_metric import FEATURES, SourceMetric


_CITATION = """\
@inproceedings{wang-etal-2020-asking,
    title = "Asking and Answering Questions to Evaluate the Factual Consistency of Summaries",
    author = "Wang, Alex and Cho, Kyunghyun and Lewis, Mike",
    booktitle = "Proceedings of the 58th Annual Meeting of the Association for Computational Linguistics",
    year = "2020",
    publisher = "Association for Computational Linguistics",
    url = "https://aclanthology.org/2020.acl-main.450",
    doi = "10.18653/v1/2020.acl-main.450",
}
"""

_DESCRIPTION = """\
QAGS measures whether summaries stay with the facts of their documents. Questions are asked about a summary and
answered from the summary and from the document; the score is how well the answers agree.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): The summaries. A blank one is not scored.
    sources (`list[str]`): The document of each.
    model_id (`str`, *optional*): A QAGen that asks and answers, questions first: folder, Hub id, or adapter. Left
        out: the default model of hf-quals.
    writer_id (`str`, *optional*): In its place, as published, an encoder–decoder that writes questions for answers,
        such as `lmqg/bart-large-squad-qg`; goes with `reader_id`.
    reader_id (`str`, *optional*): The SQuAD model that answers, such as `deepset/roberta-large-squad2`.
    batch_size (`int`, *optional*, defaults to 8): Inputs of a model computed together; bounds memory.
    device (`str`, *optional*): `cpu`, `cuda`, `cuda:1`, `mps`; left out: the best there is.
    return_details (`bool`, *optional*, defaults to `False`): Whether to return what each score rests on.

Returns:
    qags (`float`): Mean over the scored summaries, from 0 to 1; higher is better; `None` if none was scored.
    scores (`list[float]`): One score a summary, `None` where no question could be asked about it.
    num_unscored (`int`): How many have none.
    finder (`str`): What found the phrases that are asked for: a spaCy model or `rules`.
    details (`list[dict]`): With `return_details`, of each summary its `questions` with both answers, and how many were
        dropped and why; `None` for a blank one.

Example:
    >>> import evaluate
    >>> from hf_quals import metrics
    >>> qags = evaluate.load(metrics.path("qags"))
    >>> source = "Lewis believes that Klitschko is hurt. Joshua, 27, has won all of his 18 professional fights."
    >>> results = qags.compute(
    ...     predictions=["Joshua has won all of his 18 fights.", "Joshua has won all of his 31 fights.", ""],
    ...     sources=[source, source, source],
    ... )
    >>> right, wrong, blank = results["scores"]
    >>> right > wrong
    True
    >>> results["num_unscored"]
    1
"""


@functools.lru_cache(maxsize=1)
def _scorer(model_id: str | None, writer_id: str | None, reader_id: str | None, device: str | None) -> QagsScorer:
    if writer_id is None and reader_id is None:
        return QagsScorer.from_qagen(model_id, device=device)
    if model_id is not None or writer_id is None or reader_id is None:
        raise ValueError("Pass either model_id, or writer_id and reader_id.")
    return QagsScorer.from_pretrained(writer_id, reader_id, device=device)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Qags(SourceMetric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=FEATURES,
            reference_urls=["https://huggingface.co/papers/2004.04228"],
        )

    def _compute(
        self,
        predictions,
        sources,
        model_id=None,
        writer_id=None,
        reader_id=None,
        batch_size=8,
        device=None,
        return_details=False,
    ):
        scorer = _scorer(model_id, writer_id, reader_id, device)
        output = self.judge(scorer, predictions, sources, batch_size=batch_size, return_details=return_details)
        return {**output, "finder": scorer.finder.name}
