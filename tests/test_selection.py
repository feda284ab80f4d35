import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quals.contrastive.selection import Triple, select_triples


NAN = math.nan

# Ten documents: the references get worse from left to right, the worst candidates better.
REFERENCES = [0.0, -0.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7, -0.8, -0.9]
CANDIDATES = [[-1.0, -3.0], [-2.9, -1.0], [-0.5, -0.6]] + [[-0.2, -0.1]] * 6 + [[-5.0, -6.0]]


def test_selects_documents_with_a_good_reference_and_a_bad_candidate():
    # S+ is documents 0, 1, 2; the worst candidates are those of 9 (-6), 0 (-3), 1 (-2.9).
    assert select_triples(REFERENCES, CANDIDATES) == [Triple(0, 1), Triple(1, 0)]


def test_number_of_triples_fills_up_with_the_largest_margins():
    # Margins outside the selection: 9: 5.1, 2: 0.4, 3: -0.1.
    chosen = select_triples(REFERENCES, CANDIDATES, num_triples=4)
    assert chosen == [Triple(0, 1), Triple(1, 0), Triple(2, 1), Triple(9, 1)]


def test_number_of_triples_trims_to_the_largest_margins():
    assert select_triples(REFERENCES, CANDIDATES, num_triples=1) == [Triple(0, 1)]  # 3.0 against 2.8
    assert select_triples(REFERENCES, CANDIDATES, num_triples=0) == []


def test_documents_without_a_score_take_no_part():
    references = [NAN, 0.0, 0.0, 0.0]
    candidates = [[-1.0], [NAN, NAN], [], [NAN, -2.0, -1.0]]
    assert select_triples(references, candidates, positive_share=1, negative_share=1) == [Triple(3, 1)]


def test_ties_prefer_what_comes_first():
    assert select_triples([0.0] * 4, [[-1.0, -1.0]] * 4, positive_share=0.5, negative_share=0.5) == [
        Triple(0, 0),
        Triple(1, 0),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_triples": 11}, "11 triples were asked for, but only 10 of 10"),
        ({"num_triples": -1}, "-1 triples"),
        ({"positive_share": 0}, "positive_share must be above 0"),
        ({"negative_share": 1.5}, "negative_share must be above 0 and at most 1"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_triples(REFERENCES, CANDIDATES, **arguments)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="got 2 scores of references, 1 lists"):
        select_triples([0.0, 0.0], [[0.0]])


# Few distinct values, so that there are ties.
SCORES = st.one_of(st.just(NAN), st.integers(-4, 0).map(float))
DOCUMENTS = st.lists(st.tuples(SCORES, st.lists(SCORES, max_size=4)), max_size=30)
SHARES = st.floats(0.01, 1.0)


@given(DOCUMENTS, SHARES, SHARES, st.data())
def test_properties_of_every_selection(documents, positive_share, negative_share, data):
    references, candidates = [list(column) for column in zip(*documents, strict=True)] or [[], []]
    shares = {"positive_share": positive_share, "negative_share": negative_share}
    complete = [
        document
        for document, (reference, scores) in enumerate(documents)
        if not math.isnan(reference) and any(not math.isnan(score) for score in scores)
    ]
    published = select_triples(references, candidates, **shares)
    quota = data.draw(st.integers(0, len(complete)))
    chosen = select_triples(references, candidates, num_triples=quota, **shares)
    assert len(chosen) == quota

    for triples in (published, chosen):
        assert [triple.document for triple in triples] == sorted({triple.document for triple in triples})
        for triple in triples:
            assert triple.document in complete
            scores = candidates[triple.document]
            assert scores[triple.candidate] == min(score for score in scores if not math.isnan(score))
    # The quota keeps the paper's selection first.
    kept = {triple.document for triple in published} & {triple.document for triple in chosen}
    assert len(kept) == min(quota, len(published))

    def margin(document):
        return references[document] - min(score for score in candidates[document] if not math.isnan(score))

    # Nothing left out of the same kind has a larger margin than what was taken.
    taken = {triple.document for triple in chosen}
    for kind in ({triple.document for triple in published}, set(complete) - {t.document for t in published}):
        inside, outside = kind & taken, kind - taken
        if inside and outside:
            assert min(map(margin, inside)) >= max(map(margin, outside))


@given(DOCUMENTS)
def test_published_selection_is_in_both_shares(documents):
    references, candidates = [list(column) for column in zip(*documents, strict=True)] or [[], []]
    for triple in select_triples(references, candidates):
        with_score = [
            (references[d], min(s for s in candidates[d] if not math.isnan(s)))
            for d in range(len(documents))
            if not math.isnan(references[d]) and any(not math.isnan(s) for s in candidates[d])
        ]
        count = math.floor(0.3 * len(with_score) + 0.5)
        worst = min(s for s in candidates[triple.document] if not math.isnan(s))
        assert sum(reference > references[triple.document] for reference, _ in with_score) < count
        assert sum(score < worst for _, score in with_score) < count
