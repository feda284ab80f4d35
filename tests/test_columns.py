import dataclasses
import math

import pyarrow as pa
import pytest

from hf_quals import QualsConfig
from hf_quals.quals.columns import Statistics, score_row, score_schema
from hf_quals.quals.explain import as_text
from hf_quals.quals.forms import Calibration
from hf_quals.quals.pairs import PairSelection
from hf_quals.quals.scorer import QualsResult, ScoredPair


# Mean log p of the summary -1.0 and -0.5, of the document -1.5 and -3.0: pairs of -0.5 and -2.5.
PAIRS = (
    ScoredPair("who?", "ann", ("who?", "ann"), (-1.5, -0.5), (-2.0, -1.0), 1, (0, 3)),
    ScoredPair("when?", "may", ("when?", "may"), (-0.25, -0.75), (-1.0, -5.0), 1),
)
COUNTS = {"num_generated": 60, "num_unparsable": 20, "num_not_in_summary": 30, "num_duplicate": 8, "num_surplus": 0}
SELECTION = PairSelection((), **COUNTS)
RESULT = QualsResult(-1.5, PAIRS, SELECTION, document_truncated=True, summary_truncated=False)
UNSCORED = QualsResult(math.nan, (), SELECTION, document_truncated=False, summary_truncated=True)


def test_row_of_a_result():
    assert score_row(RESULT, score_schema(with_pairs=True)) == {
        "quals": -1.5,
        "quals_probability": None,
        "quals_verdict": None,
        "quals_log_likelihood": None,
        "quals_document_attention": None,
        "quals_num_pairs": 2,
        "quals_document_truncated": True,
        "quals_summary_truncated": False,
        "quals_pairs": [
            {
                "question": "who?",
                "answer": "ann",
                "score": -0.5,
                "summary_score": -1.0,
                "document_score": -1.5,
                "support": pytest.approx(math.exp(-0.5)),
                "lost_probability": pytest.approx(math.exp(-0.5) * (1 - math.exp(-0.5))),
                "document_answer": None,
                "tokens": ["who?", "ann"],
                "summary_log_probs": [-1.5, -0.5],
                "document_log_probs": [-2.0, -1.0],
                "answer_start": 1,
                "answer_span": [0, 3],
            },
            {
                "question": "when?",
                "answer": "may",
                "score": -2.5,
                "summary_score": -0.5,
                "document_score": -3.0,
                "support": pytest.approx(math.exp(-4.25)),
                "lost_probability": pytest.approx(math.exp(-0.75) * (1 - math.exp(-4.25))),
                "document_answer": None,
                "tokens": ["when?", "may"],
                "summary_log_probs": [-0.25, -0.75],
                "document_log_probs": [-1.0, -5.0],
                "answer_start": 1,
                "answer_span": None,
            },
        ],
    }


def test_a_result_comes_back_from_its_values_and_only_from_its_own():
    for result in (RESULT, UNSCORED):
        assert QualsResult.from_dict(result.to_dict(), result.config).to_dict() == result.to_dict()
    calibrated = QualsConfig(calibration=Calibration(1, 0))
    with pytest.raises(ValueError, match=r"The score is -1.5, but the configuration makes -2.5 of the pairs"):
        QualsResult.from_dict(RESULT.to_dict(), QualsConfig(variant="worst_pair"))
    with pytest.raises(ValueError, match=r"The probability is None, but the configuration makes 0\.18"):
        QualsResult.from_dict(RESULT.to_dict(), calibrated)


@pytest.mark.parametrize("with_pairs", [True, False])
def test_rows_fit_their_schema(with_pairs):
    schema = score_schema(with_pairs)
    rows = [score_row(result, schema) for result in (RESULT, UNSCORED)]
    assert ("quals_pairs" in rows[0]) == with_pairs
    assert pa.Table.from_pylist(rows, schema=schema).to_pylist() == rows


def test_statistics_leave_out_and_count_rows_without_a_score():
    statistics = Statistics()
    for result in (RESULT, UNSCORED, UNSCORED, RESULT):
        statistics.add(score_row(result, score_schema(with_pairs=False)))
    assert (statistics.num_rows, statistics.num_unscored, statistics.mean) == (4, 2, -1.5)
    assert statistics.num_true == {"quals_document_truncated": 2, "quals_summary_truncated": 2}
    assert math.isnan(Statistics(num_rows=1, num_unscored=1).mean)


def test_text_of_a_result_names_the_pair_to_blame_and_what_was_not_seen():
    assert as_text("Ann came in May.", RESULT).splitlines() == [
        "Summary: Ann came in May.",
        "QUALS:   -1.500 from 2 pairs",
        "The document was cut to the model's context; what it says behind that was not seen.",
        "",
        "  mean log p given the",
        "  summary  document  difference  pair",
        "    -1.00     -1.50       -0.50  who? — ann",
        "    -0.50     -3.00       -2.50  when? — may  <- to blame",
    ]


def test_text_of_a_result_names_the_parts_of_a_score_that_has_several():
    config = QualsConfig(likelihood_weight=2, attention_weight=10, retrieval_heads=((0, 0),))
    result = dataclasses.replace(RESULT, log_likelihood=-1.854, document_attention=0.75, config=config)
    assert as_text("Ann came in May.", result).splitlines()[2] == (
        "Parts:   pairs -1.50; likelihood -3.71 (mean log p of the summary's tokens given the document: -1.85); "
        "attention -2.50 (share on the document, where it is lowest: 0.75)"
    )
    assert result.parts == {"pairs": -1.5, "likelihood": -3.708, "attention": -2.5}


def test_text_of_a_result_without_pairs_says_why():
    assert as_text("Ann.", UNSCORED).splitlines() == [
        "Summary: Ann.",
        "QUALS:   none: of 60 generated sequences 20 are no pair, 30 have an answer that is not in the summary",
        "The summary was cut to the model's context; what it says behind that was not seen.",
    ]


def test_text_of_a_calibrated_result_says_what_the_document_answers_instead():
    pairs = (
        dataclasses.replace(PAIRS[0], document_answer="Ann Lee"),
        dataclasses.replace(PAIRS[1], document_answer="june"),
    )
    config = QualsConfig(variant="answers", calibration=Calibration(slope=10.0, intercept=-5.5, pair_threshold=0.4))
    result = QualsResult(0.507, pairs, SELECTION, False, False, config=config)
    assert as_text("Ann came in May.", result).splitlines() == [
        "Summary: Ann came in May.",
        "QUALS:   0.507 from 2 pairs: doubtful (people would call it consistent with probability 0.39)",
        "",
        "  p(answer) given the",
        "  summary  document  pair",
        "     0.61      0.37  who? — ann (document: Ann Lee)",
        "     0.47      0.01  when? — may (document: june)  <- to blame",
    ]
    nothing = dataclasses.replace(result, pairs=pairs[:1], score=1.0)
    assert as_text("Ann came in May.", nothing).splitlines()[1] == (
        "QUALS:   1.000 from 1 pairs: supported (people would call it consistent with probability 0.99); "
        "nothing stands out"
    )
