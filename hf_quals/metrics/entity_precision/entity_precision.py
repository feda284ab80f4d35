"""Entity precision: the share of a summary's names and numbers that its document knows."""

import evaluate

from hf_quals.judges.entities import EntityScorer, load_finder
from hf_quals.metrics.source_metric import FEATURES, SourceMetric


_CITATION = """\
@inproceedings{nan-etal-2021-entity,
    title = "Entity-level Factual Consistency of Abstractive Text Summarization",
    author = "Nan, Feng and Nallapati, Ramesh and Wang, Zhiguo and Nogueira dos Santos, Cicero and Zhu, Henghui and
      Zhang, Dejiao and McKeown, Kathleen and Xiang, Bing",
    booktitle = "Proceedings of the 16th Conference of the European Chapter of the Association for Computational
      Linguistics: Main Volume",
    year = "2021",
    publisher = "Association for Computational Linguistics",
    url = "https://aclanthology.org/2021.eacl-main.235",
    doi = "10.18653/v1/2021.eacl-main.235",
}
"""

_DESCRIPTION = """\
Entity precision is the share of a summary's names and numbers that occur in its document: what does not, the
summarizer made up or knows from elsewhere.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): The summaries. A blank one is not scored.
    sources (`list[str]`): The document of each.
    finder (`str`, *optional*): What finds names: `"rules"`, or a spaCy model. Left out: spaCy's `en_core_web_sm` where
        it is installed, else `"rules"`.
    return_details (`bool`, *optional*, defaults to `False`): Whether to return what each score rests on.

Returns:
    entity_precision (`float`): Mean over the scored summaries, from 0 to 1; higher is better; `None` if none is.
    scores (`list[float]`): One score a summary, `None` where it has no name and no number.
    num_unscored (`int`): How many have none.
    finder (`str`): What found the names.
    details (`list[dict]`): With `return_details`, of each summary the names and numbers that are `supported` and
        `unsupported`; `None` for a blank one.

Example:
    >>> import evaluate
    >>> from hf_quals import metrics
    >>> entity_precision = evaluate.load(metrics.path("entity_precision"))
    >>> results = entity_precision.compute(
    ...     predictions=["Joshua has won all of his 18 fights.", "Klitschko has won 18 fights.", "He has won."],
    ...     sources=["Anthony Joshua, 27, has won all of his 18 professional fights."] * 3,
    ...     finder="rules",
    ... )
    >>> results
    {'entity_precision': 0.75, 'scores': [1.0, 0.5, None], 'num_unscored': 1, 'finder': 'rules'}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EntityPrecision(SourceMetric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=FEATURES,
            reference_urls=["https://huggingface.co/papers/2102.09130"],
        )

    def _compute(self, predictions, sources, finder=None, return_details=False):
        scorer = EntityScorer(load_finder(finder))
        output = self.judge(scorer, predictions, sources, return_details=return_details)
        return {**output, "finder": scorer.finder.name}
