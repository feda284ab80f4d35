import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quals.qagen.normal_form import normalize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("£ 1 m , $ 5 bn and US$ 3", "£1m, $5bn and US$3"),
        ("They won 2 - 1 , Lewis 's men ( x ) said .", "They won 2-1, Lewis's men (x) said."),
        ("The 23 - year - old beat a three - way tie", "The 23-year-old beat a three-way tie"),
        ("He won - again - and left", "He won - again - and left"),
        ("`` Hello , '' he said", '"Hello," he said'),
        ('he said , " No ! " and " Yes "', 'he said, "No!" and "Yes"'),
        ("the boys ' house", "the boys' house"),
        ("he said ' hello ' to us", "he said 'hello' to us"),
        ("1 , 000 men at 10 : 30 , 1 . 5 km , do n't", "1,000 men at 10:30, 1.5 km, don't"),
        ("In 2015 , 200 men", "In 2015, 200 men"),
        ("-LRB- BBC -RRB-", "(BBC)"),
        ("\u201cIt\u2019s £1m\u201d\u2026", '"It\'s £1m"...'),
        ("Cafe\u0301\u00a0\u2003\ufb01ne \uff12\uff10", "Café fine 20"),
        ("Itâ€™s", "It's"),
        ("2½ x² 10⁶ H₂O", "2½ x² 10⁶ H₂O"),
        ("2\u20131 a\u2011b \u22125", "2-1 a-b -5"),
        ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("Müller sagt: ça va? да", "Müller sagt: ça va? да"),
        (" \n ", ""),
    ],
)
def test_normal_form(text, expected):
    assert normalize(text).text == expected


PIECES = [
    "Lewis",
    "won",
    "£",
    "1",
    "m",
    "-",
    "2",
    "(",
    ")",
    ",",
    ".",
    "'s",
    "'",
    '"',
    "café",
    "n't",
    "the",
    "000",
    ":",
    "%",
]
TEXTS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))


@given(TEXTS)
def test_normal_form_is_its_own_normal_form(text):
    once = normalize(text).text
    assert normalize(once).text == once


@given(TEXTS)
def test_every_character_knows_where_it_comes_from(text):
    normal = normalize(text)
    assert normal.origins is not None
    assert len(normal.origins) == len(normal.text)
    assert all(0 <= start < end <= len(text) for start, end in normal.origins)
    starts = [start for start, _ in normal.origins]
    assert starts == sorted(starts)
    if normal.text:
        start, _ = normal.original_span(0, len(normal.text))
        assert not normalize(text[:start]).text


@given(st.lists(st.sampled_from(["Lewis", "beat", "José", "in", "2015", "Zoë's", "naïve", "it's"]), min_size=1))
def test_composed_and_decomposed_no_break_and_plain_spaces_are_one(words):
    text = " ".join(words)
    assert normalize(unicodedata.normalize("NFD", text)).text == text
    assert normalize("\u00a0".join(words)).text == text
    assert normalize("\n".join(words).replace("'", "\u2019")).text == text


def test_span_of_a_joined_word_is_found_in_the_original():
    normal = normalize("He paid £ 1 m for Lewis \u2019s caf\u0065\u0301 .")
    assert normal.text == "He paid £1m for Lewis's café."
    start = normal.text.index("£1m")
    assert normal.original[slice(*normal.original_span(start, start + 3))] == "£ 1 m"
    start = normal.text.index("café")
    assert normal.original[slice(*normal.original_span(start, start + 4))] == "caf\u0065\u0301"
