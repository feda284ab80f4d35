"""The paper's picture: what is drawn of a pair, read from the figure."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from explained import BOB, GUESTS, MAY, result
from matplotlib.colors import to_hex


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_a_pairs_tokens_have_their_probabilities_on_both_sides():
    """Blue circles given the summary, orange squares given the document; the answer stands in grey and bold."""
    [ax] = result().plot(BOB).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Who", "did", "?", "Bob"]
    given_summary, given_document = lines(ax)["given the summary"], lines(ax)["given the document"]
    assert given_summary.get_ydata() == pytest.approx([0.5, 0.5, 1.0, 0.8])
    assert given_document.get_ydata() == pytest.approx([0.5, 0.5, 1.0, 0.008])
    assert (to_hex(given_summary.get_color()), given_summary.get_marker()) == ("#0072b2", "o")
    assert (to_hex(given_document.get_color()), given_document.get_marker()) == ("#d55e00", "s")
    assert [label.get_fontweight() for label in ax.get_xticklabels()] == ["normal"] * 3 + ["bold"]
    [answer] = ax.patches
    assert answer.get_x() == 2.5  # between the third token and the fourth
    # (log .008 - log .8) / 4 tokens
    assert ax.get_title(loc="left") == f"score −{math.log(100) / 4:.2f}" == "score −1.15"


@pytest.mark.parametrize("variant", ["answers", "published"])
def test_all_pairs_are_drawn_the_worst_first(variant):
    """They lose .79, .45, .1 and, as the document answers the same, 0 of their probability."""
    figure = result(variant=variant).plot()
    drawn = [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]
    assert drawn == ["score −1.15", "score −0.58", "score −0.07", "score 0.00"]


def test_of_an_odd_number_of_pairs_no_empty_panel_is_shown():
    scored = result()
    figure = replace(scored, pairs=scored.pairs[:3]).plot()
    assert [ax.get_visible() for ax in figure.axes] == [True, True, True, False]


def test_a_good_pair_and_a_bad_one_stand_side_by_side_and_are_saved(tmp_path):
    """Scores near -0.05 and near -2.6, as in the paper's figure."""
    good = replace(MAY, document_log_probs=(*MAY.document_log_probs[:3], MAY.document_log_probs[3] - 0.2))
    bad = replace(BOB, document_log_probs=tuple(value - 2.6 for value in BOB.summary_log_probs))
    figure = result(pairs=(good, bad), variant="published").plot()
    first, second = figure.axes
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("score −2.60", "score −0.05")
    assert first.get_position().y0 == second.get_position().y0
    assert first.get_position().x1 < second.get_position().x0
    for name, start in (("pairs.svg", b"<?xml"), ("pairs.png", b"\x89PNG")):
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_what_a_model_wrote_is_no_formula(tmp_path):
    """Two dollars would make a formula, which matplotlib refuses; spaces and line breaks would not be seen."""
    odd = replace(GUESTS, tokens=("$5\\frac", " to $6", "\n", " "))
    figure = result(pairs=(odd,)).plot()
    figure.savefig(tmp_path / "pairs.png")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["$5\\frac", "to $6", "⏎", "␣"]


def test_without_a_pair_there_is_no_picture():
    with pytest.raises(ValueError, match="There is no pair to draw: none: of 60 generated sequences 20 are no pair"):
        result(pairs=()).plot()


def test_a_missing_matplotlib_is_named_with_what_installs_it():
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.path.insert(0, 'tests')\n"
        "from explained import result\n"
        "result().plot()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: Pictures need matplotlib: pip install 'hf-quals[plot]'." in done.stderr
