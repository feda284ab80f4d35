"""The notebook runs from its first to its last cell, with the default model on a CPU."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


NOTEBOOK = Path(__file__).parents[1] / "docs/notebooks/quickstart.ipynb"
CHECKS = """
assert right.score > wrong.score
assert wrong.worst_pair.answer == "Joshua"
assert callback.preference_dataset().num_rows == 2
falls = [entry["negative_prob"] for entry in trainer.state.log_history if "negative_prob" in entry]
assert falls[-1] < falls[0]
assert {"eval_quals", "eval_quals_unscored"} <= before.keys() & after.keys()
"""


def test_the_notebook_holds_no_outputs():
    """They would be those of another model some day."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS))
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
