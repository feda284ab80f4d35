import bz2
import collections
import gzip
import io
import json
import lzma
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from hub import environment, running_hub

from hf_quals import metrics
from hf_quals.errors import PublishError
from hf_quals.publish import KINDS, prepare
from hf_quals.qagen import default


RIGHT, OTHER = "hf_right", "hf_other"
CARD = "---\nlicense: mit\nbase_model: user/base\n---\n# A card\n"


@pytest.fixture(scope="module")
def hub_server():
    with running_hub(user=RIGHT, other=OTHER) as hub:
        yield hub


@pytest.fixture
def hub(hub_server):
    hub_server.repositories.clear()
    hub_server.requests.clear()
    hub_server.cut = hub_server.closed = hub_server.silent = None
    return hub_server


@pytest.fixture
def run(hub, tmp_path):
    def run(*command, token=RIGHT):
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            env=environment(hub, tmp_path / "home", token),
            timeout=300,
        )

    return run


@pytest.fixture
def publish(run):
    def publish(kind, repo_id, *options, token=RIGHT):
        return run("-m", "hf_quals.cli", "publish", kind, "--repo-id", repo_id, *map(str, options), token=token)

    return publish


@pytest.fixture
def model_folder(tiny_causal_folder, tmp_path):
    folder = shutil.copytree(tiny_causal_folder, tmp_path / "model")
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def adapter_folder(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "user/base"}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def metric_folder(tmp_path):
    return Path(shutil.copytree(metrics.path("quals"), tmp_path / "quals"))


# What is checked before the Hub is asked anything.


@pytest.mark.parametrize("name", metrics.NAMES)
def test_the_metrics_of_the_package_pass_their_checks(name):
    publication = prepare("metric", f"user/{name}")
    assert [str(file) for file in publication.files] == sorted(
        ["README.md", "app.py", f"{name}.py", "requirements.txt"]
    )


def test_the_default_adapter_passes_its_checks():
    assert Path("adapter_model.safetensors") in prepare("adapter", "user/qagen").files


def test_git_caches_and_bytecode_stay_behind_and_subfolders_go_up(model_folder):
    for name in (".git/config", ".cache/x", "__pycache__/x.pyc", "eval/results.json"):
        (model_folder / name).parent.mkdir()
        (model_folder / name).write_text("{}")
    names = {file.as_posix() for file in prepare("model", "user/tiny", model_folder).files}
    assert "eval/results.json" in names
    assert not {".git/config", ".cache/x", "__pycache__/x.pyc"} & names


@pytest.mark.parametrize("section", KINDS["metric"].sections)
def test_a_metric_card_without_a_section_is_refused(metric_folder, section):
    card = metric_folder / "README.md"
    card.write_text(re.sub(rf"^#+ {section}$", "", card.read_text(), flags=re.MULTILINE))
    with pytest.raises(PublishError, match=f"no section {section}"):
        prepare("metric", "user/quals", metric_folder)


@pytest.mark.parametrize("key", KINDS["metric"].front_matter)
def test_a_metric_card_without_a_key_is_refused(metric_folder, key):
    card = metric_folder / "README.md"
    card.write_text(card.read_text().replace(f"\n{key}:", f"\nno_{key}:", 1))
    with pytest.raises(PublishError, match=f"no {key} in the front matter"):
        prepare("metric", "user/quals", metric_folder)


def test_a_space_whose_script_evaluate_would_not_find_is_refused(metric_folder):
    with pytest.raises(PublishError, match=r"no file consistency\.py"):
        prepare("metric", "user/consistency", metric_folder)


def test_all_problems_are_said_at_once(tmp_path):
    with pytest.raises(PublishError) as error:
        prepare("adapter", "user/x", tmp_path)
    for problem in ("no file adapter_config.json", "no file adapter_model.safetensors", "README.md"):
        assert problem in str(error.value)


@pytest.mark.parametrize("card", ["no front matter", "---\nlicense: [\n---\n", "---\n- a list\n---\n"])
def test_a_card_that_cannot_be_read_is_refused(adapter_folder, card):
    (adapter_folder / "README.md").write_text(card)
    with pytest.raises(PublishError, match=r"README\.md"):
        prepare("adapter", "user/x", adapter_folder)


@pytest.mark.parametrize("key", ["license", "base_model"])
def test_an_adapter_card_needs_licence_and_base_model(adapter_folder, key):
    (adapter_folder / "README.md").write_text(CARD.replace(key, "other"))
    with pytest.raises(PublishError, match=f"no {key} in the front matter"):
        prepare("adapter", "user/x", adapter_folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"base_model_name_or_path": "/home/user/base"}', "is /home/user/base, which others cannot load"),
        ('{"base_model_name_or_path": null}', "is None, which others cannot load"),
        ('{"base_model_name_or_path": 5}', "is 5, which others cannot load"),
        ('{"base_model_name_or_path": "."}', "is ., which others cannot load"),
        ("{}", "no base_model_name_or_path can be read"),
        ("{", "no base_model_name_or_path can be read"),
    ],
)
def test_an_adapter_whose_base_others_cannot_load_is_refused(adapter_folder, config, message):
    (adapter_folder / "adapter_config.json").write_text(config)
    with pytest.raises(PublishError, match=re.escape(message)):
        prepare("adapter", "user/x", adapter_folder)


@pytest.mark.parametrize("name", ["training_args.bin", "checkpoint-1/optimizer.pt", "data.pkl"])
def test_pickles_are_refused(model_folder, name):
    (model_folder / name).parent.mkdir(exist_ok=True)
    (model_folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(PublishError, match=f"{name} is a pickle"):
        prepare("model", "user/x", model_folder)


def packed(pack, **members):
    """The bytes of an archive; `pack` is `"zip"` or `"tar"`."""
    file = io.BytesIO()
    if pack == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def saved(save, value):
    file = io.BytesIO()
    save(file, value)
    return file.getvalue()


# What runs a function when it is read.
RUNS = collections.OrderedDict(a=1)
TENSOR = {"weight": torch.zeros(3)}
PICKLES = {
    **{f"protocol {protocol}": pickle.dumps(RUNS, protocol) for protocol in range(6)},
    "numbers": pickle.dumps({"a": 1}, 4),
    "torch": saved(lambda file, value: torch.save(value, file), TENSOR),
    "old torch": saved(lambda file, value: torch.save(value, file, _use_new_zipfile_serialization=False), TENSOR),
    "array": saved(lambda file, value: np.save(file, value, allow_pickle=True), np.array([RUNS, None])),
    "arrays": saved(lambda file, value: np.savez(file, a=value), np.array([RUNS, None])),
    "gzip": gzip.compress(pickle.dumps(RUNS)),
    "bzip2": bz2.compress(pickle.dumps(RUNS)),
    "xz": lzma.compress(pickle.dumps(RUNS)),
    "zlib": zlib.compress(pickle.dumps(RUNS)),
    "zip": packed("zip", notes=pickle.dumps(RUNS)),
    "tar": packed("tar", notes=pickle.dumps(RUNS)),
}


@pytest.mark.parametrize("name", ["weights.dat", "model-2.safetensors"])
@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_pickles_by_other_names_are_refused(adapter_folder, name, content):
    (adapter_folder / name).write_bytes(content)
    with pytest.raises(PublishError, match=f"{name} is a pickle"):
        prepare("adapter", "user/x", adapter_folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"cat\ndog\n",
        b"citation\nmissing\nX.",
        b"N.\n",
        b"\x80\x02" + bytes(6) + b'{"__metadata__":{}}',  # safetensors with a header of 640 bytes
        b"\x80",
        b"BZ",
        "\u03c7".encode(),
        saved(np.save, np.frombuffer(b"|O" * 64, dtype="i2")),
        packed("zip", notes=b"text"),
        packed("tar", notes=b"text"),
        gzip.compress(b"text"),
    ],
    # Archives hold the time, and every process must find the same tests.
    ids=len,
)
def test_what_is_no_pickle_goes_up(adapter_folder, content):
    (adapter_folder / "other.dat").write_bytes(content)
    assert Path("other.dat") in prepare("adapter", "user/x", adapter_folder).files


@pytest.mark.parametrize(
    "content", [gzip.compress(b"text" * 99)[:-9], packed("zip", notes=b"text").replace(b"text", b"TEXT")], ids=len
)
def test_an_archive_that_cannot_be_looked_into_is_refused(adapter_folder, content):
    (adapter_folder / "other.dat").write_bytes(content)
    with pytest.raises(PublishError, match=r"other\.dat is an archive that cannot be looked into"):
        prepare("adapter", "user/x", adapter_folder)


def test_links_that_lead_out_of_the_folder_are_refused(adapter_folder, tmp_path):
    (tmp_path / "outside.txt").write_text("private")
    (adapter_folder / "notes.txt").write_text("A note")
    links = {"file.txt": "../outside.txt", "gone.txt": "nowhere", "folder": "..", "same.txt": "notes.txt"}
    for name, target in links.items():
        (adapter_folder / name).symlink_to(target)
    with pytest.raises(PublishError) as error:
        prepare("adapter", "user/x", adapter_folder)
    for name in ("file.txt", "gone.txt", "folder"):
        assert f"{name} is a link to {links[name]}, and only files of the folder go up" in str(error.value)
        (adapter_folder / name).unlink()
    assert "same.txt" not in str(error.value)
    assert Path("same.txt") in prepare("adapter", "user/x", adapter_folder).files


def test_a_link_does_not_hide_the_name_of_a_secret(adapter_folder):
    (adapter_folder / ".git").mkdir()
    (adapter_folder / ".git" / "credentials").write_text("A=1")
    (adapter_folder / "notes.txt").symlink_to(".git/credentials")
    with pytest.raises(PublishError, match=r"notes\.txt holds what looks like a secret"):
        prepare("adapter", "user/x", adapter_folder)


# Put together here, so that no scanner takes them for real ones.
SECRETS = [
    "api_org_" + "aB3" * 12,
    "ghr_" + "aB3" * 12,
    "github_pat_" + "aB3_" * 20,
    "glpat-" + "aB3-" * 5,
    "ASIA" + "A1" * 8,
    "AWS_SECRET_ACCESS_KEY=" + "aB3/" * 10,
    'WANDB_API_KEY = "' + "0f" * 20 + '"',
    '"client_secret": "' + "aB3" * 9 + '"',
    "sk-proj-" + "aB3_" * 10,
    "sk_live_" + "aB3" * 8,
    "xoxb-" + "12-" * 8,
    "AIza" + "aB3_-" * 7,
    "pypi-AgE" + "aB3_" * 20,
    "npm_" + "aB3" * 12,
    "gsk_" + "aB3" * 18,
    "dapi" + "0f" * 16,
    "eyJ" + "aB3" * 6 + ".eyJ" + "aB3" * 6 + "." + "aB3" * 9,
    "https://user:" + "aB3" * 5 + "@example.org/x",
    "-----BEGIN PGP PRIVATE " + "KEY BLOCK-----",
    "-----BEGIN OPENSSH PRIVATE " + "KEY-----",
]


@pytest.mark.parametrize(
    "text",
    [
        "pass api_key=os.environ['HF_TOKEN'] or password=getpass()",
        "api_key = YOUR_API_KEY_COMES_HERE",
        '"mask_token": "<mask>", "secret_key_size": 2048',
        "see http://localhost:8000/a@b or mailto:user@example.org",
        "the hf_hub and sk-learn, -----BEGIN CERTIFICATE-----",
    ],
)
def test_what_only_speaks_of_secrets_goes_up(adapter_folder, text):
    (adapter_folder / "notes.txt").write_text(text)
    assert Path("notes.txt") in prepare("adapter", "user/x", adapter_folder).files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, "A=1") for name in (".env", ".env.local", "prod.ENV", ".netrc", "_netrc", ".pypirc", "kaggle.json")),
        ("model-2.safetensors", "hf_" + "aB3" * 12),
        *((f"note-{number}.txt", f"key: {secret}") for number, secret in enumerate(SECRETS)),
        ("notes.txt", "HF_TOKEN=hf_" + "aB3" * 12),
        ("log.json", '{"key": "AKIA' + "A1" * 8 + '"}'),
        ("key.txt", "-----BEGIN RSA PRIVATE " + "KEY-----"),
    ],
)
def test_secrets_are_refused(model_folder, name, content):
    (model_folder / name).write_text(content)
    with pytest.raises(PublishError, match=f"{name} holds what looks like a secret"):
        prepare("model", "user/x", model_folder)


@pytest.mark.parametrize(
    ("kind", "repo_id", "message"),
    [
        ("dataset", "user/x", "one of metric, model, adapter, got 'dataset'"),
        ("metric", "quals", "user/name, got 'quals'"),
        ("metric", "user/quals/main", "namespace/repo_name"),
        ("metric", "user/qu als", "alphanumeric"),
        (
            "metric",
            "user/bleu",
            "the `path` of its folder, or call the repository entity_precision, factcc, qags, quals",
        ),
        ("model", "user/x", "Which model? Pass the `path` of its folder"),
    ],
)
def test_what_is_not_known_is_refused(kind, repo_id, message):
    with pytest.raises(PublishError, match=re.escape(message)):
        prepare(kind, repo_id)


# A Space whose requirements cannot be installed does not start.


@pytest.fixture
def wheel(tmp_path):
    """An unreleased version of the project."""
    path = tmp_path / "hf_quals-0.9.1+local-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hf_quals/__init__.py", "")
    return path


@pytest.mark.parametrize(
    ("requirement", "released", "warning"),
    [
        ("hf-quals>=0.1.0", ["0.1.0"], None),
        ("hf_quals[plot] ~= 0.1  # the project", ["0.1.0", "0.2.0"], None),
        ("hf-quals>=0.2.0", ["0.1.0", "0.1.1"], "pip's package index has no such version (it has 0.1.1, 0.1.0)"),
        ("hf-quals>=0.1.0", [], "(ERROR: No matching distribution found for hf-quals)"),
        ("hf-quals>=0.1.0", ["0.2.0rc1"], None),
        ("hf-quals @ https://example.org/hf_quals-9-py3-none-any.whl", [], None),
        ("--pre\n./hf_quals-9-py3-none-any.whl\n# hf-quals==9\n", [], None),
    ],
)  # fmt: skip
def test_a_version_that_the_index_does_not_hold_is_warned_of(
    monkeypatch, tmp_path, metric_folder, requirement, released, warning
):
    index = tmp_path / "index"
    index.mkdir()
    for version in released:
        (index / f"hf_quals-{version}-py3-none-any.whl").touch()
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    (metric_folder / "requirements.txt").write_text(requirement)
    warnings = prepare("metric", "user/quals", metric_folder).missing_requirements()
    assert len(warnings) == (warning is not None)
    assert all(warning in text and "pass `wheel`" in text for text in warnings)


def test_an_index_that_does_not_answer_is_said(monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for name, value in {"CONFIG_FILE": os.devnull, "INDEX_URL": "http://127.0.0.1:9/simple"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    [warning] = prepare("metric", "user/qags").missing_requirements()
    assert "Whether pip's package index has hf-quals>=0.1.0, which requirements.txt names, is not known" in warning


def test_a_command_warns_and_publishes_all_the_same(hub, publish):
    result = publish("metric", "user/quals")
    assert result.returncode == 0, result.stderr
    assert "Warning: requirements.txt names hf-quals[plot]>=0.1.0" in result.stderr
    assert "pass --wheel to publish" in result.stderr
    assert "requirements.txt" in hub.repositories["space", "user/quals"].files


def test_a_wheel_goes_up_with_the_space_which_installs_it_from_there(hub, publish, metric_folder, wheel):
    (metric_folder / "requirements.txt").write_text(
        "--pre\nhf_quals[plot]>=0.1.0; python_version>'3'  # us\nnumpy @ file:///x"
    )
    options = ("--path", metric_folder, "--wheel", wheel)
    listed = publish("metric", "user/quals", *options, "--dry-run")
    assert "Warning" not in listed.stderr
    assert f"{wheel.stat().st_size}  {wheel.name}" in listed.stdout

    assert refused(publish("metric", "user/quals", *options, "--private"), "user/quals is private, and what installs")
    assert hub.repositories == {}
    published = publish("metric", "user/quals", *options)
    assert published.returncode == 0, published.stderr
    files = hub.repositories["space", "user/quals"].files
    assert files[wheel.name] == wheel.read_bytes()
    address = f"{hub.url}/spaces/user/quals/resolve/main/hf_quals-0.9.1%2Blocal-py3-none-any.whl"
    assert files["requirements.txt"].decode() == (
        f'--pre\nhf_quals[plot] @ {address} ; python_version > "3"\nnumpy @ file:///x\n'
    )
    assert (metric_folder / "requirements.txt").read_text().startswith("--pre\nhf_quals[plot]>=0.1.0")
    with urlopen(address) as answer:
        assert answer.read() == wheel.read_bytes()


def test_a_wheel_that_no_space_could_install_is_refused(metric_folder, model_folder, wheel, tmp_path):
    def problem(kind, folder, path):
        with pytest.raises(PublishError) as error:
            prepare(kind, "user/quals", folder, wheel=path)
        return str(error.value)

    assert "only a metric has a wheel" in problem("model", model_folder, wheel)
    assert "no file" in problem("metric", metric_folder, tmp_path / "hf_quals-1-py3-none-any.whl")
    assert "is no wheel" in problem("metric", metric_folder, metric_folder / "README.md")
    (metric_folder / "requirements.txt").write_text("hf-quals==0.9.2\n")
    assert "names hf-quals==0.9.2, and hf_quals-0.9.1+local" in problem("metric", metric_folder, wheel)
    (metric_folder / "requirements.txt").write_text("numpy\n")
    assert "does not name hf-quals, which hf_quals-0.9.1" in problem("metric", metric_folder, wheel)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("model.pkl", pickle.dumps([1]))
    assert "is a pickle" in problem("metric", metric_folder, wheel)


# Both directions, with real clients.


def test_dry_run_lists_what_would_go_up_and_asks_nothing_of_the_hub(hub, publish):
    result = publish("metric", "user/quals", "--dry-run")
    assert result.returncode == 0, result.stderr
    lines = [line.strip().split("  ") for line in result.stdout.splitlines()]
    sizes = {name: int(size.replace(",", "")) for size, name in lines[:-1]}
    folder = Path(metrics.path("quals"))
    assert sizes == {
        name: (folder / name).stat().st_size for name in ("README.md", "app.py", "quals.py", "requirements.txt")
    }
    assert lines[-1] == [f"{sum(sizes.values()):,}", "bytes to the space user/quals"]
    assert hub.requests == []


@pytest.mark.slow
def test_a_published_metric_is_loaded_from_the_hub_into_an_empty_cache_and_computes(hub, publish, run, model_folder):
    published = publish("metric", "user/quals")
    assert published.returncode == 0, published.stderr
    assert published.stdout.splitlines()[-1] == f"{hub.url}/spaces/user/quals"
    assert publish("model", "user/tiny", "--path", model_folder, "--private").returncode == 0
    space, model = hub.repositories["space", "user/quals"], hub.repositories["model", "user/tiny"]
    assert (space.sdk, space.private, model.private) == ("gradio", False, True)
    for repository, folder in ((space, Path(metrics.path("quals"))), (model, model_folder)):
        assert repository.files == {name: (folder / name).read_bytes() for name in repository.files}

    code = (
        "import evaluate, json; quals = evaluate.load('user/quals');"
        "print(json.dumps([quals.compute(predictions=['abc def', ''], sources=['abc def ghi'] * 2, model_id=model)"
        f" for model in ('user/tiny', {str(model_folder)!r})]))"
    )
    loaded = run("-c", code)
    assert loaded.returncode == 0, loaded.stderr
    from_hub, from_folder = json.loads(loaded.stdout)
    assert from_hub["quals"] == pytest.approx(from_folder["quals"])
    assert from_hub["num_unscored"] == 1
    assert "GET /spaces/user/quals/resolve/main/quals.py" in hub.requests


def test_the_default_adapter_arrives_byte_for_byte_through_lfs(hub, publish):
    result = publish("adapter", "user/qagen")
    assert result.returncode == 0, result.stderr
    repository = hub.repositories["model", "user/qagen"]
    assert repository.large == {"adapter_model.safetensors"}
    assert repository.files == {file.name: file.read_bytes() for file in Path(default.ADAPTER_FOLDER).iterdir()}


def refused(result, *messages):
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for message in messages:
        assert message in result.stderr
    return True


def test_no_token_and_a_wrong_one_are_refused(hub, publish):
    assert refused(publish("metric", "user/quals", token=""), "No token. Log in with `hf auth login`")
    assert refused(publish("metric", "user/quals", token="hf_wrong"), "The Hub does not accept the token.")
    assert hub.repositories == {}


def test_a_repository_that_exists_is_left_alone_unless_told(hub, publish, metric_folder):
    assert publish("metric", "user/quals").returncode == 0
    files = hub.repositories["space", "user/quals"].files
    files["extra.txt"] = b"kept"
    before = dict(files)
    (metric_folder / "requirements.txt").write_text("hf-quals\n")

    again = publish("metric", "user/quals", "--path", metric_folder)
    assert refused(again, "Error: The space user/quals exists. Pass --update")
    assert files == before

    updated = publish("metric", "user/quals", "--path", metric_folder, "--update")
    assert updated.returncode == 0, updated.stderr
    assert files == before | {"requirements.txt": b"hf-quals\n"}


def test_a_public_repository_is_not_taken_for_a_private_one(hub, publish):
    assert publish("metric", "user/quals").returncode == 0
    commits = hub.repositories["space", "user/quals"].commits
    assert refused(
        publish("metric", "user/quals", "--update", "--private"), "is public, and --private does not change"
    )
    assert hub.repositories["space", "user/quals"].commits == commits


def test_what_belongs_to_someone_else_is_refused(hub, publish):
    assert refused(publish("metric", "other/qags"), "may not write to other/qags", "rights under other")
    assert publish("metric", "other/quals", token=OTHER).returncode == 0
    before = dict(hub.repositories["space", "other/quals"].files)
    assert refused(publish("metric", "other/quals"), "other/quals exists")
    assert refused(publish("metric", "other/quals", "--update"), "may not write to other/quals")
    assert hub.repositories["space", "other/quals"].files == before


def test_a_large_file_that_is_refused_leaves_an_empty_repository_and_says_so(hub, publish):
    hub.closed = "^/lfs/"
    assert refused(
        publish("adapter", "user/qagen"), "may not write to user/qagen", "user/qagen was created, and is empty"
    )
    assert hub.repositories["model", "user/qagen"].files == {}


def test_a_card_that_only_the_hub_finds_wrong_is_refused(publish, metric_folder):
    card = metric_folder / "README.md"
    card.write_text(card.read_text().replace("colorFrom: blue", "colorFrom: mauve"))
    assert refused(
        publish("metric", "user/quals", "--path", metric_folder),
        "refuses the card",
        '"colorFrom" must be',
        "Go on with --update",
    )


@pytest.mark.parametrize(
    "place", ["whoami", "repos/create", "validate-yaml", "/commit/", pytest.param("^/lfs/", marks=pytest.mark.slow)]
)
def test_a_cut_connection_is_said_and_the_same_command_with_update_goes_on(hub, publish, model_folder, place):
    hub.cut = place
    result = publish("model", "user/tiny", "--path", model_folder)
    assert refused(result, f"The connection to {hub.url} broke")
    created = place not in ("whoami", "repos/create")
    assert (("model", "user/tiny") in hub.repositories) == created
    assert ("user/tiny was created" in result.stderr) == ("with --update" in result.stderr) == created

    hub.cut = None
    again = publish("model", "user/tiny", "--path", model_folder, *(["--update"] if created else []))
    assert again.returncode == 0, again.stderr
    assert hub.repositories["model", "user/tiny"].files.keys() == {file.name for file in model_folder.iterdir()}


def test_a_hub_that_never_answers_is_given_up(hub, run):
    hub.silent = "whoami"
    code = (
        "import sys, hf_quals.publish; from hf_quals.cli import main;"
        "assert all(0 < limit <= 60 for limit in hf_quals.publish._TIMEOUT[:3]);"
        "hf_quals.publish._TIMEOUT = (1, 1, 1, None);"
        "sys.argv = ['hf-quals', 'publish', 'metric', '--repo-id', 'user/quals']; main()"
    )
    assert refused(run("-c", code), f"The connection to {hub.url} broke", "timed out")
    assert hub.repositories == {}


def test_offline_mode_is_said(run):
    code = (
        "import os; os.environ['HF_HUB_OFFLINE'] = '1'; import sys; from hf_quals.cli import main;"
        "sys.argv = ['hf-quals', 'publish', 'metric', '--repo-id', 'user/quals']; main()"
    )
    assert refused(run("-c", code), "HF_HUB_OFFLINE keeps this process from the Hub")
