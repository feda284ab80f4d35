"""The benchmark of a step's cost: what it compares is equal, and it prints one row a model and kind of weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_model


BENCHMARKS = Path(__file__).parents[1] / "recipes" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import step_cost  # noqa: E402


@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("family", ["bart", "llama"])
def test_two_passes_have_the_loss_and_the_gradients_of_the_contrastive_step(tmp_path, family, lora_r):
    tiny_model(family).save_pretrained(tmp_path)
    args = step_cost.Arguments(document_tokens=7, summary_tokens=3)
    trainer = step_cost.make_trainer(str(tmp_path), lora_r, args, str(tmp_path))
    model = trainer.model.eval()  # without dropout
    batches = trainer.get_train_dataloader()
    _, contrastive, separate = (batch for batch, _ in zip(batches, step_cost.KINDS, strict=False))
    for inputs in (contrastive, separate):
        model.zero_grad()
        one = trainer.compute_loss(model, inputs)
        one.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        sides = list(trainer.two_passes(model, inputs))
        sum(sides).backward()
        assert len(sides) == 2
        torch.testing.assert_close(sum(sides), one)
        for name, gradient in gradients.items():
            torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-5, rtol=1e-3)


def test_kinds_take_turns_and_only_the_first_has_no_negatives():
    args = step_cost.Arguments(batch_size=2, repeats=1, document_tokens=7, summary_tokens=3)
    rows = step_cost.make_rows(tiny_model("llama").config, args)
    held = [row["negative_labels"] is not None for row in rows]
    assert held == [False, False, True, True, True, True] * 2
    assert [len(row["input_ids"]) for row in rows] == [10] * 12
    assert all(row["labels"] == [-100] * 7 + row["input_ids"][7:] for row in rows)


@pytest.mark.slow
def test_one_run_prints_one_table(tmp_path):
    names = [str(tmp_path / family) for family in ("bart", "llama")]
    for name, family in zip(names, ("bart", "llama"), strict=True):
        tiny_model(family).save_pretrained(name)
    words = "--batch_size 1 --document_tokens 16 --summary_tokens 4 --lora_r 2 --repeats 1"
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / "step_cost.py"), "--models", *names, *words.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    machine, blank, header, _, *rows = result.stdout.splitlines()
    assert "1 documents of 16 tokens a step, summaries of 4; median of 1 steps." in machine
    assert not blank
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (header, *rows)]
    assert cells[0][2:] == [
        "MLE, s",
        "contrastive, s",
        "two passes, s",
        "contrastive / MLE",
        "two passes / contrastive",
    ]
    assert [row[:2] for row in cells[1:]] == [[name, weights] for name in names for weights in ("all", "LoRA, r=2")]
    for row in cells[1:]:
        mle, contrastive, two_passes, ratio, speedup = map(float, row[2:])
        # Times are rounded to milliseconds, ratios to hundredths.
        assert contrastive - 0.001 <= (ratio + 0.01) * (mle + 0.001)
        assert two_passes - 0.001 <= (speedup + 0.01) * (contrastive + 0.001)


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        step_cost.Arguments(repeats=0)
