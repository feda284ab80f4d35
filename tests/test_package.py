import subprocess
import sys

import pytest

import hf_quals


def test_import_loads_neither_torch_nor_transformers():
    code = "import hf_quals, sys; sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", hf_quals.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(hf_quals, name).__doc__ or isinstance(getattr(hf_quals, name), hf_quals.QATemplate)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Quals'"):
        hf_quals.Quals  # noqa: B018
