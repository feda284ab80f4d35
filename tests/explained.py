"""Results written by hand, whose numbers a reader can check: a wrong name, a date that stands, a number in doubt."""

import json
import math
import re

from hf_quals import QualsConfig
from hf_quals.quals.forms import VARIANTS, Calibration
from hf_quals.quals.pairs import PairSelection
from hf_quals.quals.scorer import QualsResult, ScoredPair


DOCUMENT = "😀 Ann Lee came to Rome in May. Bob stayed at home.\nThey had 30 guests, and Ann Lee paid for 12 of them."
SUMMARY = "😀 Bob came to Rome in May with 30 guests."
SELECTION = PairSelection((), 60, 20, 30, 7, 0)
CALIBRATION = Calibration(1.0, 2.0, threshold=0.6, pair_threshold=0.7)


def pair(question, answer, given_summary, given_document, document_answer=None):
    """A pair of four tokens, the last of which is the answer; its question costs the same on both sides."""
    start = SUMMARY.index(answer)
    tokens = ("Who", " did", "?", f" {answer}")
    of_summary, of_document = (
        (math.log(0.5), math.log(0.5), 0.0, math.log(p)) for p in (given_summary, given_document)
    )
    span = (start, start + len(answer))
    return ScoredPair(question, answer, tokens, of_summary, of_document, 3, span, document_answer)


MAY = pair("When did someone come?", "May", 0.9, 0.9, "in May")
BOB = pair("Who came to Rome?", "Bob", 0.8, 0.008, "Ann Lee")
GUESTS = pair("How many guests?", "30", 0.5, 0.05, "12")
ALL_OF_THEM = pair("With whom did they come?", "30 guests", 0.4, 0.3, "guests")
PAIRS = (MAY, GUESTS, BOB, ALL_OF_THEM)


def result(pairs=PAIRS, calibration=CALIBRATION, variant="answers", **values):
    config = QualsConfig(variant=variant, calibration=calibration, document_answers=True)
    values = {"document_truncated": False, "summary_truncated": False} | values
    return QualsResult(VARIANTS[variant](pairs), tuple(pairs), SELECTION, config=config, **values)


def told(page):
    """What a page is told."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
