"""Metrics to Spaces, models and adapters to model repositories: what is checked before, and the upload."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import mmap
import pickletools
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, RepoCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session, validate_repo_id
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from . import __version__, metrics
from .errors import PublishError


@dataclass(frozen=True)
class Kind:
    """
    What is published: patterns that must each match a file of the folder, and what its card must have, keys of the
    front matter and headings of sections.
    """

    repo_type: str
    files: tuple[str, ...]
    front_matter: tuple[str, ...]
    sections: tuple[str, ...] = ()


KINDS = {
    "metric": Kind(
        repo_type="space",
        files=("app.py", "requirements.txt"),
        front_matter=("title", "sdk", "sdk_version", "app_file", "tags", "description"),
        sections=(
            "Metric Description",
            "How to Use",
            "Inputs",
            "Output Values",
            "Values from Popular Papers",
            "Examples",
            "Limitations and Bias",
            "Citation",
            "Further References",
        ),
    ),
    "model": Kind(repo_type="model", files=("config.json", "*.safetensors"), front_matter=("license",)),
    "adapter": Kind(
        repo_type="model",
        files=("adapter_config.json", "adapter_model.safetensors"),
        front_matter=("license", "base_model"),
    ),
}

_REQUIREMENTS = Path("requirements.txt")
_LEFT_OUT = {".git", ".cache", "__pycache__"}
# What torch and Python write as pickles, which run code when they are read. Other names are known by what they hold.
_PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pk", ".pkl", ".pt", ".pth"}
_WEIGHTS = {".gguf", ".onnx", ".safetensors"}
_METADATA = 1 << 20  # bytes at the start of a file of weights; behind them are only numbers
_SECRET_NAMES = (
    *(".env*", "*.env", ".netrc", "_netrc", ".git-credentials", ".htpasswd", ".npmrc", ".pgpass", ".pypirc"),
    *("credentials", "kaggle.json", "stored_tokens", "*.jks", "*.kdbx", "*.keystore", "*.p12", "*.pfx", "*.ppk"),
)
_SECRET = re.compile(
    # Hugging Face, GitHub, GitLab, Amazon, OpenAI and others, Stripe, Slack
    rb"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}|\bgh[oprsu]_[A-Za-z0-9]{36}|\bgithub_pat_\w{50,}|\bglpat-[\w-]{20,}"
    rb"|\bA[KS]IA[0-9A-Z]{16}\b|\bsk-[\w-]{32,}|\b[rs]k_live_[A-Za-z0-9]{20,}|\bxox[a-z]-[\w-]{10,}|\bxapp-[\w-]{20,}"
    # Google, PyPI, npm, Replicate, Groq, xAI, Databricks, SendGrid, Docker, Azure, web tokens
    rb"|\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}|\bpypi-AgE[\w-]{50,}|\bnpm_[A-Za-z0-9]{36}"
    rb"|\br8_[A-Za-z0-9]{37}|\bgsk_[A-Za-z0-9]{50,}|\bxai-[A-Za-z0-9]{70,}|\bdapi[0-9a-f]{32}|\bSG\.[\w-]{22}\.[\w-]{43}"
    rb"|\bdckr_pat_[\w-]{20,}|\bAccountKey=[A-Za-z0-9+/]{80,}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
    # A password in an address; a value with a digit that is called a key, a secret or a password
    rb"|://[^\s/:@\"'<>{}$]{1,100}:[^\s/:@\"'<>{}$]{1,200}@"
    rb"|(?i:(?:api|access|secret)_?key|_secret|password|auth_token)[\"']?\s{0,5}[:=]\s{0,5}[\"']?"
    rb"(?=[A-Za-z/+_-]*[0-9])[\w/+-]{20,}"
)
# A Hub that stops answering is given up; seconds to connect, to read, to write, to wait for a free connection.
_TIMEOUT = (10.0, 60.0, 60.0, None)


@dataclass(frozen=True)
class Publication:
    """
    A checked folder and where it goes; files are relative to the folder, in order. A wheel goes up beside them, and
    the requirements of the Space name it.
    """

    repo_id: str
    kind: Kind
    folder: Path
    files: tuple[Path, ...]
    wheel: Path | None = None

    def content(self, file: Path) -> Path | bytes:
        """What goes up as one of the files."""
        if self.wheel is not None and file == Path(self.wheel.name):
            return self.wheel
        if self.wheel is not None and file == _REQUIREMENTS:
            # A Space installs its requirements before it has its other files: a path would name nothing.
            address = f"{HfApi().endpoint}/spaces/{self.repo_id}/resolve/main/{quote(self.wheel.name)}"
            return _with_wheel((self.folder / file).read_text(encoding="utf-8"), self.wheel, address).encode()
        return self.folder / file

    def missing_requirements(self) -> list[str]:
        """
        A sentence for each requirement of a Space of which the package index that pip knows has no fitting version:
        such a Space does not start.
        """
        if self.kind is not KINDS["metric"]:
            return []
        content = self.content(_REQUIREMENTS)
        text = content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
        named = [requirement for _, requirement in _requirements(text) if requirement and not requirement.url]
        return [problem for requirement in named if (problem := _missing(requirement))]

    def describe(self) -> str:
        """The files that go up, with their sizes in bytes."""
        contents = map(self.content, self.files)
        sizes = [len(content) if isinstance(content, bytes) else content.stat().st_size for content in contents]
        width = len(f"{sum(sizes):,}")
        lines = [f"{size:>{width},}  {file.as_posix()}" for size, file in zip(sizes, self.files, strict=True)]
        return "\n".join([*lines, f"{sum(sizes):>{width},}  bytes to the {self.kind.repo_type} {self.repo_id}"])


def prepare(
    kind: str, repo_id: str, path: str | Path | None = None, *, wheel: str | Path | None = None
) -> Publication:
    """
    Checks a folder, without the Hub: the files and the card of its kind, no pickle (whatever it is called, packed or
    in an archive), nothing that looks like a secret, no link out of the folder.

    Args:
        kind (`str`): `"metric"`, `"model"` or `"adapter"`.
        repo_id (`str`): Where it goes, `user/name`. For `evaluate.load`, the script of a metric must be `name.py`.
        path (`str` or `Path`, *optional*): The folder that is published. Left out, that of the metric called `name` or
            of the default adapter.
        wheel (`str` or `Path`, *optional*): Of a metric, the wheel of a package that its `requirements.txt` names,
            such as an unreleased hf-quals: it goes up, too, and is installed from there.

    Returns:
        [`Publication`]

    Raises:
        [`PublishError`]: with all that is wrong.
    """
    if kind not in KINDS:
        raise PublishError(f"What is published is one of {', '.join(KINDS)}, got {kind!r}.")
    user, _, name = repo_id.partition("/")
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise PublishError(str(error)) from error
    if not (user and name):
        raise PublishError(f"The repository must be given as user/name, got {repo_id!r}.")
    folder = _default_folder(kind, name) if path is None else Path(path)
    if not folder.is_dir():
        raise PublishError(f"{folder} is not a folder.")

    inside = [file for file in folder.rglob("*") if _LEFT_OUT.isdisjoint(file.relative_to(folder).parts)]
    links = [file for file in inside if file.is_symlink() and not _stays_inside(file, folder)]
    files = tuple(sorted(file.relative_to(folder) for file in inside if file.is_file() and file not in links))
    wanted = (f"{name}.py", *KINDS[kind].files) if kind == "metric" else KINDS[kind].files
    problems = [f"no file {pattern}" for pattern in wanted if not any(folder.glob(pattern))]
    problems += _card_problems(folder, KINDS[kind])
    if kind == "adapter":
        problems += _base_model_problems(folder)
    problems += [
        f"{link.relative_to(folder)} is a link to {link.readlink()}, and only files of the folder go up: copy it there"
        for link in sorted(links)
    ]
    for file in files:
        problem = _content_problem(folder / file)
        problems += [f"{file} {problem}"] if problem else []
    if wheel is not None:
        wheel = Path(wheel)
        problems += _wheel_problems(kind, folder, wheel)
        files = tuple(sorted({*files, Path(wheel.name)}))
    if problems:
        raise PublishError("\n- ".join([f"{folder} cannot be published as a {kind} called {name}:", *problems]))
    return Publication(repo_id, KINDS[kind], folder, files, wheel)


def _requirements(text: str) -> Iterator[tuple[str, Requirement | None]]:
    """Each line of a requirements file, and the package that it names; `None` for an option, a path, or no package."""
    for line in text.splitlines():
        try:
            yield line, Requirement(re.sub(r"(^|\s)#.*", "", line).strip())
        except InvalidRequirement:
            yield line, None


def _missing(requirement: Requirement) -> str | None:
    """What is to be said of a requirement that pip's index does not meet."""
    # -I: a pip.py of the working directory is no pip. An index that does not answer is not asked again and again.
    command = [sys.executable, "-I", "-m", "pip", "index", "versions", "--pre", "--retries", "1", "--timeout", "10"]
    command += ["--disable-pip-version-check", "--no-input", "--no-color", requirement.name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    versions = re.search(r"^Available versions: (.*)$", result.stdout, re.MULTILINE)
    known = versions[1].split(", ") if versions else []
    if any(requirement.specifier.filter(known)):
        return None
    said = (result.stderr.strip().splitlines() or ["it says nothing"])[-1]
    unreached = re.search(r"^WARNING: (?:Retrying|Could not fetch).*$", result.stderr, re.MULTILINE)
    if not known and (unreached or not said.startswith("ERROR: No matching distribution")):
        said = unreached[0] if unreached else said
        return f"Whether pip's package index has {requirement}, which requirements.txt names, is not known ({said})."
    has = f"it has {', '.join(known)}" if known else said
    return (
        f"requirements.txt names {requirement}, and pip's package index has no such version ({has}): the Space would "
        "not start. Release it before, or pass `wheel` to publish its wheel with the Space."
    )


def _wheel_problems(kind: str, folder: Path, wheel: Path) -> list[str]:
    if kind != "metric":
        return [f"{wheel}: only a metric has a wheel beside it"]
    try:
        name, version, *_ = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        return [f"{wheel} is no wheel: {error}"]
    if not wheel.is_file():
        return [f"no file {wheel}"]
    content, other = _content_problem(wheel), folder / wheel.name
    problems = [f"{wheel} {content}"] if content else []
    if other.is_file() and not other.samefile(wheel):
        problems.append(f"{other.name} is in the folder, too: remove one of the two")
    text = (folder / _REQUIREMENTS).read_text(encoding="utf-8") if (folder / _REQUIREMENTS).is_file() else ""
    named = [part for _, part in _requirements(text) if part and canonicalize_name(part.name) == name]
    if not named:
        problems.append(f"requirements.txt does not name {name}, which {wheel.name} holds")
    problems += [
        f"requirements.txt names {part}, and {wheel.name} holds another version"
        for part in named
        if not part.specifier.contains(version, prereleases=True)
    ]
    return problems


def _with_wheel(requirements: str, wheel: Path, address: str) -> str:
    """A requirements file that has the wheel at its address in the place of the version of its package."""
    name, *_ = parse_wheel_filename(wheel.name)
    lines = []
    for line, requirement in _requirements(requirements):
        if requirement and canonicalize_name(requirement.name) == name:
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            marker = f" ; {requirement.marker}" if requirement.marker else ""
            line = f"{requirement.name}{extras} @ {address}{marker}"
        lines.append(line)
    return "\n".join([*lines, ""])


def _stays_inside(link: Path, folder: Path) -> bool:
    return link.is_file() and link.resolve().is_relative_to(folder.resolve())


def _content_problem(file: Path) -> str | None:
    """What keeps a file from going up, as the end of a sentence. Of a link both names count."""
    names = {file.name.lower(), file.resolve().name.lower()}
    if any(fnmatch(name, pattern) for name in names for pattern in _SECRET_NAMES) or _holds_secret(file):
        return "holds what looks like a secret"
    try:
        pickled = any(
            Path(name).suffix.lower() in _PICKLES or _is_pickle(content) for name, content in _contents(file)
        )
    except (
        OSError,
        EOFError,
        RuntimeError,
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
    ) as error:
        return f"is an archive that cannot be looked into ({error}): remove it, or unpack it"
    return "is a pickle, which can run code: remove it, or save it as safetensors" if pickled else None


def _holds_secret(file: Path) -> bool:
    if not file.stat().st_size:
        return False  # nothing to map
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _SECRET.search(content[:_METADATA] if file.suffix in _WEIGHTS else content) is not None


def _contents(file: Path) -> Iterator[tuple[str, Any]]:
    """A file, and what is packed in it: name and content of each."""
    with open(file, "rb") as opened:
        yield file.name, opened
        opened.seek(0)
        start = opened.read(1 << 16)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as content:
                        yield member.filename, content
    elif tarfile.is_tarfile(file):
        with tarfile.open(file) as tar:
            for entry in tar:
                extracted = tar.extractfile(entry) if entry.isfile() else None
                if extracted is not None:
                    yield entry.name, extracted
    for magic, unpack in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open)):
        if start.startswith(magic):
            with unpack(file) as unpacked:
                yield file.stem, unpacked
    # joblib packs with bare zlib.
    with contextlib.suppress(zlib.error):
        yield file.name, io.BytesIO(zlib.decompressobj().decompress(start, len(start)))


def _is_pickle(content: IO[bytes]) -> bool:
    """
    Whether a reader of pickles would take the content for one. Of those that do not say so at the start (protocols 0
    and 1, which are text), it is one only if it ends as one and names what it runs, which other texts do not.
    """
    start = content.read(1024)
    if start.startswith(b"\x93NUMPY"):
        return b"|O" in start.partition(b"\n")[0]  # the header of an array of objects
    content.seek(0)
    says_so = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    names: set[str] = set()
    try:
        for number, (opcode, _, _) in enumerate(pickletools.genops(content)):
            names.add(opcode.name)
            if says_so and number == 2:  # what only begins alike, as safetensors may, has no three valid steps
                return True
    except (ValueError, OverflowError, MemoryError):
        return False
    return says_so or not names.isdisjoint({"GLOBAL", "INST", "STACK_GLOBAL"})


def _default_folder(kind: str, name: str) -> Path:
    if kind == "adapter":
        from .qagen.default import ADAPTER_FOLDER

        return ADAPTER_FOLDER
    if kind == "metric" and name in metrics.NAMES:
        return Path(metrics.path(name))
    known = f", or call the repository {', '.join(metrics.NAMES)}" if kind == "metric" else ""
    raise PublishError(f"Which {kind}? Pass the `path` of its folder{known}.")


def _card_problems(folder: Path, kind: Kind) -> list[str]:
    try:
        card = RepoCard.load(folder / "README.md")
    except (ValueError, yaml.YAMLError) as error:
        # A missing file is a ValueError, too.
        return [f"README.md: {error}"]
    fields = card.data.to_dict()
    headings = {line.strip("# ").casefold() for line in card.text.splitlines() if line.startswith("#")}
    problems = [f"README.md: no {key} in the front matter" for key in kind.front_matter if not fields.get(key)]
    problems += [f"README.md: no section {name}" for name in kind.sections if name.casefold() not in headings]
    if fields.get("sdk", "gradio") != "gradio":
        problems.append(f"README.md: sdk must be gradio, got {fields['sdk']}")
    if "app_file" in fields and not (folder / str(fields["app_file"])).is_file():
        problems.append(f"README.md: app_file {fields['app_file']} does not exist")
    return problems


def _base_model_problems(folder: Path) -> list[str]:
    config = folder / "adapter_config.json"
    if not config.is_file():
        return []
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"adapter_config.json: no base_model_name_or_path can be read: {error!r}"]
    if not isinstance(base, str) or Path(base).is_absolute() or Path(base).is_dir():
        return [f"adapter_config.json: base_model_name_or_path is {base}, which others cannot load; give its Hub id"]
    return []


def upload(publication: Publication, *, private: bool = False, update: bool = False) -> str:
    """
    Creates the repository and commits the files to it, all or none.

    Args:
        publication ([`Publication`]): What [`prepare`] returned.
        private (`bool`, *optional*, defaults to `False`): Whether only its owner can see the repository.
        update (`bool`, *optional*, defaults to `False`): Whether the repository may exist already: its files of the
            same names are replaced, others stay.

    Returns:
        `str`: the address of the repository.

    Raises:
        [`PublishError`]: if there is no token or a wrong one, the repository exists or may not be written to, or is
            private and has a wheel to install, or the connection broke.
    """
    if get_token() is None:
        raise PublishError("No token. Log in with `hf auth login`, or set HF_TOKEN; it needs the role 'write'.")
    api = HfApi(library_name="hf_quals", library_version=__version__)
    repo_id, repo_type = publication.repo_id, publication.kind.repo_type
    created = False
    session = get_session()
    timeout, session.timeout = session.timeout, _TIMEOUT
    try:
        api.whoami()
        if not _exists(api, publication, private=private, update=update):
            sdk = "gradio" if repo_type == "space" else None
            api.create_repo(repo_id, repo_type=repo_type, private=private or None, space_sdk=sdk)
            created = True
        operations = [
            CommitOperationAdd(path_in_repo=file.as_posix(), path_or_fileobj=publication.content(file))
            for file in publication.files
        ]
        commit = api.create_commit(
            repo_id, operations, repo_type=repo_type, commit_message=f"Published with hf-quals {__version__}"
        )
    except OfflineModeIsEnabled as error:
        raise PublishError("HF_HUB_OFFLINE keeps this process from the Hub. Unset it to publish.") from error
    except (HTTPError, OSError, RuntimeError) as error:
        # huggingface_hub raises a RuntimeError from what went wrong with a large file.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        said = f"The connection to {api.endpoint} broke ({cause})."
        if isinstance(cause, HfHubHTTPError):
            said = _refused(cause, repo_id)
        raise PublishError(said + _left(repo_id, created)) from error
    except PublishError:
        raise
    except ValueError as error:
        raise PublishError(f"The Hub refuses the card. {error}{_left(repo_id, created)}") from error
    finally:
        session.timeout = timeout
    return str(commit.repo_url)


def _exists(api: HfApi, publication: Publication, *, private: bool, update: bool) -> bool:
    """Whether there is such a repository; refuses to write to one as it was not asked for."""
    name = f"The {publication.kind.repo_type} {publication.repo_id}"
    exists = api.repo_exists(publication.repo_id, repo_type=publication.kind.repo_type)
    if exists and not update:
        raise PublishError(f"{name} exists. Pass `update=True` to replace files in it, or another `repo_id`.")
    is_private = private
    if exists:
        is_private = bool(api.repo_info(publication.repo_id, repo_type=publication.kind.repo_type).private)
        if private and not is_private:
            raise PublishError(f"{name} is public, and `private=True` does not change that.")
    if is_private and publication.wheel is not None:
        raise PublishError(
            f"{name} is private, and what installs its requirements may not read a wheel in it. Publish it for all to "
            "see, or let requirements.txt name an address that needs no token."
        )
    return exists


def _left(repo_id: str, created: bool) -> str:
    if not created:
        return ""
    return f"\n{repo_id} was created, and is empty unless only the last answer was lost. Go on with `update=True`."


def _refused(error: HfHubHTTPError, repo_id: str) -> str:
    status, message = error.response.status_code, error.server_message or str(error).strip()
    if status == 401:
        return "The Hub does not accept the token. Log in with `hf auth login`, or set HF_TOKEN."
    if status == 403:
        user = repo_id.partition("/")[0]
        return f"The token may not write to {repo_id}: it needs the role 'write', and rights under {user}. {message}"
    return f"The Hub refuses {repo_id} (HTTP {status}): {message}"
