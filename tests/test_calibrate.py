import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_quals import QualsConfig


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
import calibrate


def rows(count=400):
    """Scores whose probability of being consistent is 1 / (1 + exp(3 - 6 * score))."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=count)
    labels = (rng.uniform(size=count) < 1 / (1 + np.exp(3 - 6 * scores))).astype(int)
    return scores, labels


def test_fit_finds_the_curve_that_made_the_labels():
    scores, labels = rows(4000)
    calibration = calibrate.fit(scores, labels)
    assert calibration.slope == pytest.approx(6, abs=0.6)
    assert calibration.intercept == pytest.approx(-3, abs=0.4)
    assert calibration.threshold == pytest.approx(0.5, abs=0.1)


def test_reliability_of_rows_not_fitted_to_lies_on_the_diagonal():
    scores, labels = rows(4000)
    probabilities, called = calibrate.out_of_fold(scores, labels)
    for mean, share, count in calibrate.reliability(probabilities, labels):
        assert count == 800
        assert mean == pytest.approx(share, abs=0.06)
    assert calibrate.balanced_accuracy(called, labels) == pytest.approx(0.74, abs=0.05)


def test_balanced_accuracy_is_the_mean_over_both_kinds():
    called, labels = np.array([True, True, False, True]), np.array([1, 1, 1, 0])
    assert calibrate.balanced_accuracy(called, labels) == pytest.approx((2 / 3 + 0) / 2)


def test_threshold_is_the_strictest_that_is_as_good_as_the_best_to_one_standard_error():
    apart = np.array([0.1, 0.2, 0.3, 0.5, 0.6, 0.8])
    assert calibrate.strictest_threshold(apart, np.array([0, 0, 0, 1, 1, 1])) == 0.5  # 1.0, without any error
    # Balanced accuracies 1/2, 3/4, 1/2 and 3/4; that of the second has an error of (1/4 / 2) ** 0.5 / 2.
    mixed = np.array([0.2, 0.4, 0.6, 0.8])
    assert calibrate.strictest_threshold(mixed, np.array([0, 1, 0, 1])) == 0.8


def test_rows_of_one_kind_are_refused():
    with pytest.raises(ValueError, match="needs consistent summaries and others: of 3 rows"):
        calibrate.fit(np.array([0.1, 0.2, 0.3]), np.array([1, 1, 1]))


def test_the_row_of_the_threshold_is_supported():
    scores, labels = rows(60)
    calibration = calibrate.fit(scores, labels)
    probabilities = [calibration.probability(score) for score in scores]
    assert 0 <= min(p - calibration.threshold for p in probabilities if p >= calibration.threshold) < 1e-4


def test_calibration_goes_into_the_configuration(tmp_path, monkeypatch, capsys):
    scores, labels = rows()
    scored = [
        {"quals": score, "consistent": bool(label), "quals_pairs": [{"lost_probability": 0.8}]}
        for score, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*scored, {"quals": None}]))
    QualsConfig(variant="answers", num_beams=30).save_pretrained(tmp_path)
    words = ["--scored", tmp_path / "scored.jsonl", "--config", tmp_path / "quals_config.json"]
    monkeypatch.setattr(sys, "argv", ["calibrate.py", *map(str, words), "--picture", str(tmp_path / "r.png")])
    calibrate.main()
    config = QualsConfig.from_file(tmp_path / "quals_config.json")
    assert (config.variant, config.num_beams, config.calibration.pair_threshold) == ("answers", 30, 0.8)
    assert config.calibration.slope > 3
    assert (tmp_path / "r.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "400 of 401 rows have a score" in printed
    consistent, others = (sorted(scores[labels == kind]) for kind in (1, 0))
    middle = [(kind[len(kind) // 2] + kind[(len(kind) - 1) // 2]) / 2 for kind in (consistent, others)]
    assert "median score: {:.3f} of consistent rows, {:.3f} of others".format(*middle) in printed
