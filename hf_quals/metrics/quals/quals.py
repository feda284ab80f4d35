"""QUALS: factual consistency of summaries by question–answer pairs."""

import functools

import evaluate

from hf_quals import QualsScorer
from hf_quals.metrics.source_metric import FEATURES, SourceMetric


_CITATION = """\
@inproceedings{nan-etal-2021-improving,
    title = "Improving Factual Consistency of Abstractive Summarization via Question Answering",
    author = "Nan, Feng and Nogueira dos Santos, Cicero and Zhu, Henghui and Ng, Patrick and McKeown, Kathleen and
      Nallapati, Ramesh and Zhang, Dejiao and Wang, Zhiguo and Arnold, Andrew O. and Xiang, Bing",
    booktitle = "Proceedings of the 59th Annual Meeting of the Association for Computational Linguistics and the 11th
      International Joint Conference on Natural Language Processing (Volume 1: Long Papers)",
    year = "2021",
    publisher = "Association for Computational Linguistics",
    url = "https://aclanthology.org/2021.acl-long.536",
    doi = "10.18653/v1/2021.acl-long.536",
}
"""

_DESCRIPTION = """\
QUALS measures whether summaries stay with the facts of their documents. One model writes question–answer pairs about
a summary; pairs that are probable given the summary but improbable given the document betray a wrong fact.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): The summaries. A blank one is not scored.
    sources (`list[str]`): The document of each.
    model_id (`str`, *optional*): A QAGen model: folder, Hub id, or adapter, scored with as its `quals_config.json`
        says. Left out: the default model of hf-quals.
    batch_size (`int`, *optional*, defaults to 8): Inputs of a model computed together; bounds memory.
    device (`str`, *optional*): `cpu`, `cuda`, `cuda:1`, `mps`; left out: the best there is.
    dtype (`str`, *optional*, defaults to `"auto"`): In which type weights are computed: `auto`, `float32`, `bfloat16`
        or `float16`.
    num_beams (`int`, *optional*): Sequences generated from a summary. Left out: the model's.
    max_pairs (`int`, *optional*): The most pairs a score rests on. Left out: the model's.
    variant (`str`, *optional*): How pairs become a score: `published`, `log_ratio`, `worst_pair`, `answers` or
        `divergence`. Left out: the model's.
    return_details (`bool`, *optional*, defaults to `False`): Whether to return what each score rests on.

Returns:
    quals (`float`): Mean over the scored summaries; higher is better; `None` if none was. In the published form 0
        means "as plausible from the document as from the summary"; in the form `answers` it lies between 0 and 1, in
        the default model's, where likelihood and attention count, too, it is below 0.
    scores (`list[float]`): One score a summary, `None` where no question could be asked about it.
    num_unscored (`int`): How many have none.
    details (`list[dict]`): With `return_details`, of each summary its question–answer `pairs`, with the
        log-probabilities of their tokens given the summary and given the document, and how many were dropped and why;
        `None` for a blank one.

Example:
    >>> import evaluate
    >>> from hf_quals import metrics
    >>> quals = evaluate.load(metrics.path("quals"))
    >>> source = "Lewis believes that Klitschko is hurt. Joshua, 27, has won all of his 18 professional fights."
    >>> results = quals.compute(
    ...     predictions=["Joshua has won all of his 18 fights.", "Joshua has won all of his 31 fights.", ""],
    ...     sources=[source, source, source],
    ... )
    >>> right, wrong, blank = results["scores"]
    >>> right > wrong
    True
    >>> blank, results["num_unscored"]
    (None, 1)
    >>> results["quals"] == (right + wrong) / 2
    True
"""


@functools.lru_cache(maxsize=1)
def _scorer(model_id: str | None, **options) -> QualsScorer:
    return QualsScorer.from_pretrained(model_id, **options)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Quals(SourceMetric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=FEATURES,
            reference_urls=["https://huggingface.co/papers/2105.04623"],
        )

    def _compute(
        self,
        predictions,
        sources,
        model_id=None,
        batch_size=8,
        device=None,
        dtype="auto",
        num_beams=None,
        max_pairs=None,
        variant=None,
        return_details=False,
    ):
        scorer = _scorer(
            model_id, device=device, dtype=dtype, num_beams=num_beams, max_pairs=max_pairs, variant=variant
        )
        return self.judge(scorer, predictions, sources, batch_size=batch_size, return_details=return_details)
