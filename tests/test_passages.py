import itertools

from hypothesis import given
from hypothesis import strategies as st

from hf_quals.quals.passages import select_passages


FILLER = "Rain fell on the hills for most of the week, and nobody went out to see the river rise by the old mill. "
DOCUMENT = FILLER * 5 + "Lewis beat Klitschko in Berlin. " + FILLER * 5 + "Fury paid two million euros. " + FILLER * 5


def test_short_document_is_read_whole():
    assert select_passages("Lewis won. Fury lost.", "Fury won.", 4) == [(0, 21)]


def test_passages_that_share_words_with_the_summary_are_read_in_the_documents_order():
    spans = select_passages(DOCUMENT, "Fury paid Lewis, who beat Klitschko.", 130)
    read = [DOCUMENT[start:end] for start, end in spans]
    assert len(read) == 2
    assert "Lewis beat Klitschko in Berlin." in read[0]
    assert "Fury paid two million euros." in read[1]


def test_summary_that_shares_nothing_reads_the_beginning():
    ((start, _),) = select_passages(DOCUMENT, "Quantum.", 60)
    assert start == 0


@given(st.lists(st.sampled_from(["Lewis won.", "It rained.", "Fury lost to him in May!"]), min_size=1, max_size=40))
def test_passages_are_ordered_apart_and_about_as_long_as_asked(sentences):
    document = " ".join(sentences)
    spans = select_passages(document, "Fury lost", 20)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    num_words = sum(len(document[start:end].split()) for start, end in spans)
    assert min(20, len(document.split())) <= num_words <= 20 + 66
