import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quals.judges.entities import (
    EntityScorer,
    RuleFinder,
    SpacyFinder,
    entity_precision,
    load_finder,
    numbers,
)
from hf_quals.text import sentence_spans, split_sentences, tokenize


def norms(text):
    return [token.norm for token in tokenize(text)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,000", "1000"),
        ("1000", "1000"),
        ("thousand", "1000"),
        ("£5m", "5000000"),
        ("5 million", "5000000"),
        ("five million", "5000000"),
        ("1.50", "1.5"),
        ("1.5bn", "1500000000"),
        ("twenty-five", "25"),
        ("sixteen", "16"),
        ("two hundred and five thousand", "205000"),
        ("Three", "3"),
        ("40%", "40"),
        ("0m", "0"),
        # A pattern without case takes "ı" and "İ" for "i"; case-folding does not.
        ("fıve mıllıon", "5000000"),
        ("twenty-sıx", "26"),
        ("NİNE MİLLİON", "9000000"),
    ],
)
def test_number_has_one_spelling(text, number):
    assert norms(text) == [number]
    assert tokenize(text)[0].is_number


@given(st.integers(0, 10**15))
def test_number_with_separators_is_the_number_without(number):
    assert norms(f"{number:,}") == norms(str(number)) == [str(number)]


def test_neighbouring_numbers_stay_apart():
    assert norms("one hundred and two hundred") == ["100", "and", "200"]
    assert norms("two, three") == ["2", "3"]
    assert norms("2015 2016") == ["2015", "2016"]


def test_what_is_glued_to_digits_is_a_word():
    tokens = tokenize("the 21st, the 1990s, at 5.30pm, the G20")
    assert not any(token.is_number for token in tokens)
    assert [token.norm for token in tokens if any(map(str.isdigit, token.norm))] == [
        "21st",
        "1990s",
        "5",
        "30pm",
        "g20",
    ]


def test_words_are_folded_and_separated():
    assert norms("Lewis's Jean-Claude O'Brien, of the U.K.") == [
        "lewis",
        "jean",
        "claude",
        "o'brien",
        "of",
        "the",
        "uk",
    ]


def test_the_country_is_not_the_pronoun():
    assert norms("US U.S. us") == ["u.s.", "u.s.", "us"]


@given(st.text())
def test_tokens_are_in_order_and_inside_the_text(text):
    bounds = [place for token in tokenize(text) for place in (token.start, token.end)]
    assert bounds == sorted(bounds)
    assert all(0 <= place <= len(text) for place in bounds)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He left. She stayed!", ["He left.", "She stayed!"]),
        ("Mr. Smith met J. K. Rowling in the U.S. in May.", ["Mr. Smith met J. K. Rowling in the U.S. in May."]),
        ('"He left." Then 3 men came.', ['"He left."', "Then 3 men came."]),
        ("It cost 1.5 million. 20 paid.", ["It cost 1.5 million.", "20 paid."]),
        ("He said no. yes, no", ["He said no. yes, no"]),
        ("one line\nanother", ["one line", "another"]),
        ("the man was hurt . he lives .", ["the man was hurt .", "he lives ."]),
        (" \n ", []),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


@given(st.text(alphabet="aB.!? \n\"'1"))
def test_sentences_leave_out_nothing_but_white_space(text):
    spans = sentence_spans(text)
    outside = list(text)
    for start, end in reversed(spans):
        assert text[start:end].strip() == text[start:end]
        del outside[start:end]
    assert not "".join(outside).strip()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Klitschko believes that Lewis is hurt.", ["Klitschko", "Lewis"]),
        ("The Bank of England met J. K. Rowling.", ["Bank of England", "J. K. Rowling"]),
        ("He met London's Heathrow staff. Then Marks & Spencer.", ["London", "Heathrow", "Marks & Spencer"]),
        ("I think I'm in Leeds. Three left.", ["Leeds"]),
        ('"We won", says Anna-Maria.', ["Anna-Maria"]),
        ("He saw Fury. Fury won.", ["Fury", "Fury"]),
        ("Police came. The police left.", []),
        ("the man died in leeds.", []),
        ("", []),
    ],
)
def test_rules_find_names_by_capitals(text, names):
    assert RuleFinder().names(text) == names


def test_rules_find_noun_phrases_by_determiners_and_numbers():
    text = "A man died after three people fell near the old railway station in Leeds. His defeat, the end."
    assert RuleFinder().noun_phrases(text) == [
        "A man",
        "three people fell",
        "the old railway station",
        "His defeat",
        "the end",
    ]


def test_numbers_are_given_as_written_and_one_is_none():
    assert numbers("One of 1,000 fans paid five million.") == ["1,000", "five million"]


@pytest.fixture(scope="module")
def spacy_folder(tmp_path_factory):
    """A real pipeline without training: a tokenizer and rules that name two entities."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns(
        [{"label": "PERSON", "pattern": "lennox lewis"}, {"label": "CARDINAL", "pattern": "three"}]
    )
    folder = tmp_path_factory.mktemp("spacy") / "model"
    nlp.to_disk(folder)
    return str(folder)


def test_spacy_finds_names_that_rules_cannot_and_its_numbers_are_left_to_ours(spacy_folder):
    finder = load_finder(spacy_folder)
    assert finder.names("lennox lewis won three fights") == ["lennox lewis"]
    assert RuleFinder().names("lennox lewis won three fights") == []
    (result,) = EntityScorer(finder).score(["Lewis won two fights."], ["lennox lewis won three fights"])
    assert (result.score, result.supported, result.unsupported) == (0.5, ("lennox lewis",), ("three",))
    assert result.finder == spacy_folder


def test_pipeline_without_a_parser_has_no_noun_phrases(spacy_folder):
    assert SpacyFinder(spacy_folder).noun_phrases("the man saw the dog") == []


def test_unknown_spacy_model_is_refused_with_advice():
    pytest.importorskip("spacy")
    with pytest.raises(OSError, match=r"neither an installed spaCy model nor a folder.*pass 'rules'"):
        load_finder("no_such_model")


def test_without_the_english_model_names_are_found_by_rules(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert load_finder() == RuleFinder()


def precision(document, summary, **options):
    return EntityScorer(RuleFinder(), **options).score([document], [summary])[0]


def test_precision_is_the_share_of_distinct_names_and_numbers_in_the_document():
    document = "Lennox Lewis said that 1,000 fans saw Fury in LEEDS."
    result = precision(document, "Lewis, Fury and Lewis saw a thousand fans and three Poles in Leeds with Joshua.")
    assert result.supported == ("Lewis", "Fury", "Leeds", "thousand")
    assert result.unsupported == ("Poles", "Joshua", "three")
    assert result.score == pytest.approx(4 / 7)
    assert result.finder == "rules"


def test_words_are_compared_whole():
    assert precision("The party was smart.", "He met Art in 5 days.").unsupported == ("Art", "5")
    assert precision("It took 15 days.", "It took 5 days.").score == 0.0


def test_one_word_of_a_name_is_enough_unless_whole_names_are_wanted():
    document, summary = "Obama met the Prime Minister.", "Then Barack Obama met the Prime Minister."
    assert precision(document, summary).score == 1.0
    assert precision(document, summary, whole_names=True).unsupported == ("Barack Obama",)


def test_a_title_supports_nobody():
    assert precision("Mr Smith came.", "He says Mr Jones came.").unsupported == ("Mr Jones",)


def test_summary_without_names_and_numbers_has_no_score():
    result = precision("Lewis won.", "he won")
    assert math.isnan(result.score)
    assert result.to_dict() == {"score": None, "supported": [], "unsupported": [], "finder": "rules"}


def test_precision_of_one_summary():
    assert entity_precision("Lewis won in 2015.", "He says Lewis won in 2016.") == 0.5


def test_a_summary_may_be_longer_than_its_document():
    assert precision("Lewis.", "He says Lewis won. " * 50).score == 1.0


@pytest.mark.parametrize(
    ("documents", "summaries", "message"),
    [
        (["a"], ["b", "c"], "got 1 documents and 2 summaries"),
        (["a"], "b", "A single summary goes with a single document"),
        (["a"], [None], "Row 0: the summary must be a string, got NoneType"),
        ([""], ["b"], "Row 0: the document is empty"),
    ],
)
def test_bad_rows_are_named(documents, summaries, message):
    with pytest.raises(ValueError, match=message):
        EntityScorer(RuleFinder()).score(documents, summaries)
