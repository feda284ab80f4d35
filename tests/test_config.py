import json

import pytest

from hf_quals import QualsConfig
from hf_quals.errors import InputError
from hf_quals.quals.forms import Calibration


def test_defaults_are_the_published_form():
    config = QualsConfig()
    assert (config.num_beams, config.num_beam_groups, config.diversity_penalty) == (60, None, 0.5)
    assert (config.min_new_tokens, config.max_new_tokens, config.max_pairs, config.max_length) == (8, 60, 10, 1024)
    assert config.variant == "published"
    assert not any((config.normal_form, config.facts_first, config.round_trip, config.document_answers))
    assert config.passage_words is config.calibration is None


def test_configuration_survives_its_file(tmp_path):
    config = QualsConfig(num_beams=30, variant="answers", calibration=Calibration(3.0, -1.5, 0.4))
    config.save_pretrained(tmp_path / "new")
    assert QualsConfig.from_file(tmp_path / "new" / "quals_config.json") == config


@pytest.mark.parametrize(
    "content",
    ["not json", "[1]", '{"colour": "blue"}', '{"num_beams": 0}', '{"calibration": {}}', '{"calibration": 3}'],
)
def test_broken_file_is_named(tmp_path, content):
    path = tmp_path / "quals_config.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"quals_config\.json is no configuration of QUALS: .* Its fields are"):
        QualsConfig.from_file(path)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"num_beams": 10, "num_beam_groups": 4}, "must be a multiple"),
        ({"diversity_penalty": 0}, "diversity_penalty must be a number from 0 on, and more than 0 .*, got 0 with 60"),
        ({"diversity_penalty": -1.0, "num_beams": 1}, "diversity_penalty must be .*, got -1.0 with 1"),
        ({"diversity_penalty": "0.5"}, "diversity_penalty must be .*, got '0.5'"),
        ({"min_new_tokens": 70}, "min_new_tokens=70 must lie between"),
        ({"passage_words": 0}, "passage_words must be at least 1"),
        ({"likelihood_weight": -1.0}, "likelihood_weight must be a number from 0 on, got -1.0"),
        ({"likelihood_weight": float("nan")}, "likelihood_weight must be a number from 0 on, got nan"),
        ({"attention_weight": -1.0}, "attention_weight must be a number from 0 on, got -1.0"),
        ({"attention_weight": 1.0}, "attention_weight=1.0 needs retrieval_heads; recipes/find_retrieval_heads.py"),
        ({"retrieval_heads": 3}, "retrieval_heads must be pairs of a layer and a head, counted from 0, got 3"),
        ({"retrieval_heads": [(1, 2, 3)]}, "retrieval_heads must be pairs"),
        ({"retrieval_heads": [(1, 2), (1, 2)]}, "retrieval_heads must differ from each other"),
        ({"retrieval_heads": [(1, -2)]}, "retrieval_heads must be pairs"),
        ({"retrieval_heads": [(1, 2.0)]}, "retrieval_heads must be pairs"),
        ({"max_pairs": 2.5}, "max_pairs must be a whole number, got 2.5"),
        ({"num_beams": True}, "num_beams must be a whole number, got True"),
        ({"max_length": None}, "max_length must be a whole number, got None"),
        ({"passage_words": "300"}, "passage_words must be a whole number, got '300'"),
        ({"normal_form": "false"}, "normal_form must be true or false, got 'false'"),
        ({"round_trip": 1}, "round_trip must be true or false, got 1"),
        ({"likelihood_weight": "4"}, "likelihood_weight must be a number from 0 on, got '4'"),
        ({"diversity_penalty": True}, "diversity_penalty must be .*, got True"),
        ({"variant": "magic"}, "variant must be one of published, log_ratio"),
        ({"variant": ["answers"]}, r"variant must be one of .*, got \['answers'\]"),
        ({"calibration": {"slope": 1.0, "intercept": 0.0}}, "calibration must be a Calibration"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        QualsConfig(**numbers)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"slope": "0.07"}, "slope must be a finite number, got '0.07'"),
        ({"intercept": float("inf")}, "intercept must be a finite number, got inf"),
        ({"threshold": 73}, "threshold must be a probability from 0 to 1, got 73"),
        ({"threshold": float("nan")}, "threshold must be a probability from 0 to 1, got nan"),
        ({"pair_threshold": -0.1}, "pair_threshold must be a probability from 0 to 1, got -0.1"),
        ({"pair_threshold": True}, "pair_threshold must be a probability from 0 to 1, got True"),
    ],
)
def test_a_calibration_that_says_nothing_is_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        Calibration(**{"slope": 1.0, "intercept": 0.0, **numbers})


def test_one_group_needs_no_penalty():
    assert QualsConfig(num_beams=4, num_beam_groups=1, diversity_penalty=0.0).diversity_penalty == 0.0


def test_another_form_leaves_its_calibration_behind():
    config = QualsConfig(variant="answers", num_beams=30, calibration=Calibration(3.0, -1.5))
    assert config.but(num_beams=12) == QualsConfig(variant="answers", num_beams=12, calibration=Calibration(3.0, -1.5))
    assert config.but(variant="published") == QualsConfig(num_beams=30)
    # An answer that agrees with the document's own is supported, whatever it costs; no other form looks at that.
    assert config.but(document_answers=True).calibration is None
    fitted = QualsConfig(calibration=Calibration(3.0, -1.5))
    assert fitted.but(document_answers=True).calibration == Calibration(3.0, -1.5)
    assert QualsConfig(variant="answers", likelihood_weight=4.0).but(variant="published") == QualsConfig()
    heads = ((1, 2), (0, 3))
    attentive = QualsConfig(attention_weight=4.0, retrieval_heads=heads, calibration=Calibration(3.0, -1.5))
    assert attentive.but(attention_weight=0.0) == QualsConfig(retrieval_heads=heads)
    assert attentive.but(retrieval_heads=((1, 1),)).calibration is None
    unweighted = QualsConfig(retrieval_heads=heads, calibration=Calibration(3.0, -1.5))
    assert unweighted.but(retrieval_heads=()).calibration == Calibration(3.0, -1.5)
    assert attentive.but(variant="answers") == QualsConfig(variant="answers", retrieval_heads=heads)
    calibrated = QualsConfig(likelihood_weight=4.0, calibration=Calibration(3.0, -1.5))
    assert calibrated.but(likelihood_weight=2.0) == QualsConfig(likelihood_weight=2.0)
    assert calibrated.but(likelihood_weight=4.0, num_beams=12).calibration == Calibration(3.0, -1.5)


def test_calibration_is_logistic():
    calibration = Calibration(slope=2.0, intercept=-1.0)
    assert calibration.probability(0.5) == pytest.approx(0.5)
    assert calibration.probability(1.0) == pytest.approx(0.7310585786)
    assert calibration.probability(-1e6) == 0.0  # overflows nowhere
    assert json.loads(json.dumps(QualsConfig(calibration=calibration).to_dict()))["calibration"]["slope"] == 2.0


def test_retrieval_heads_are_saved_and_read_again(tmp_path):
    config = QualsConfig(attention_weight=2.0, retrieval_heads=[[1, 2], [0, 3]])
    assert config.retrieval_heads == ((1, 2), (0, 3))
    config.save_pretrained(tmp_path)
    assert QualsConfig.from_file(tmp_path / "quals_config.json") == config
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
