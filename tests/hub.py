"""A Hub look-alike on loopback: the endpoints that `huggingface_hub` and `evaluate` call to publish and to load."""

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


@dataclass
class Repository:
    private: bool = False
    sdk: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commits: int = 0

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """
    Repositories in memory, by type and id. `cut` is a pattern of paths at which the connection breaks off, `closed` a
    pattern of paths that are forbidden, `silent` one of paths that are never answered.

    As on the Hub, safetensors files go through LFS, and a commit is made of all its files or of none.
    """

    daemon_threads = True

    def __init__(self, tokens: dict[str, str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = tokens
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cut: str | None = None
        self.closed: str | None = None
        self.silent: str | None = None
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def running_hub(**tokens: str):
    """A hub that knows the users given as `user=token`."""
    hub = Hub({token: user for user, token in tokens.items()})
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("GET", r"/api/(model|space)s/([^/]+/[^/]+)(?:/revision/[^/]+)?", "info"),
    ("GET", r"/api/(model|space)s/([^/]+/[^/]+)/tree/[^/]+(?:/(.+))?", "tree"),
    ("POST", r"/api/(model|space)s/([^/]+/[^/]+)/preupload/main", "preupload"),
    ("POST", r"/api/(model|space)s/([^/]+/[^/]+)/commit/main", "commit"),
    ("POST", r"/(?:(space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/([0-9a-f]{64})", "lfs_put"),
    ("GET|HEAD", r"/(?:(space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
]


class _Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments):
        pass

    def _handle(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {path}")
        if self.server.cut and re.search(self.server.cut, path):
            self.close_connection = True
            return
        if self.server.silent and re.search(self.server.silent, path):
            self.rfile.read(1)  # until the client gives up
            self.close_connection = True
            return
        try:
            if self.server.closed and re.search(self.server.closed, path):
                raise _Refused(403, "The storage is closed")
            for methods, pattern, name in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods.split("|"):
                    getattr(self, name)(*match.groups())
                    return
            raise _Refused(404, f"This look-alike has no {self.command} {path}")
        except _Refused as refused:
            self._send({"error": str(refused)}, refused.status, **refused.headers)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _send(self, body, status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return self.server.tokens.get(token)

    def _repository(self, kind: str | None, repo_id: str) -> Repository:
        repository = self.server.repositories.get((kind or "model", repo_id))
        if repository is None or (repository.private and self.user != repo_id.split("/")[0]):
            raise _Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
        return repository

    def _writable(self, kind: str, repo_id: str) -> Repository:
        repository = self._repository(kind, repo_id)
        if self.user != repo_id.split("/")[0]:
            raise _Refused(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repository

    def whoami(self):
        if self.user is None:
            raise _Refused(401, "Invalid username or password.")
        self._send({"type": "user", "name": self.user, "orgs": []})

    def create(self):
        request = json.loads(self.body)
        user = request.get("organization") or self.user
        kind, repo_id = request.get("type", "model"), f"{user}/{request['name']}"
        if self.user is None:
            raise _Refused(401, "Invalid username or password.")
        if self.user != user:
            raise _Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{user}"')
        if (kind, repo_id) in self.server.repositories:
            raise _Refused(409, f"You already created this {kind} repo")
        self.server.repositories[kind, repo_id] = Repository(
            request.get("visibility") == "private", request.get("sdk")
        )
        self._send({"url": f"{self.server.url}/{'spaces/' if kind == 'space' else ''}{repo_id}"})

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        try:
            fields = yaml.safe_load(content.split("---")[1])
            errors = [] if fields.get("colorFrom") != "mauve" else [{"message": '"colorFrom" must be a known colour'}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self._send({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, kind, repo_id):
        repository = self._repository(kind, repo_id)
        siblings = [{"rfilename": name} for name in repository.files]
        self._send({"id": repo_id, "sha": repository.sha, "private": repository.private, "siblings": siblings})

    def tree(self, kind, repo_id, folder):
        repository = self._repository(kind, repo_id)
        if folder:
            raise _Refused(404, f"{folder} does not exist", "EntryNotFound")
        self._send(
            [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in repository.files.items()
            ]
        )

    def preupload(self, kind, repo_id):
        self._writable(kind, repo_id)
        names = [file["path"] for file in json.loads(self.body)["files"]]
        modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
        self._send(
            {
                "files": [
                    {"path": name, "uploadMode": mode, "shouldIgnore": False}
                    for name, mode in zip(names, modes, strict=True)
                ]
            }
        )

    def lfs_batch(self, kind, repo_id):
        self._writable(kind or "model", repo_id)
        objects = [
            {**blob, "actions": {"upload": {"href": f"{self.server.url}/lfs/{blob['oid']}"}}}
            for blob in json.loads(self.body)["objects"]
        ]
        self._send({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "The content does not have this hash")
        self.server.blobs[oid] = self.body
        self._send({})

    def commit(self, kind, repo_id):
        repository = self._writable(kind, repo_id)
        added, large = {}, set()
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                added[value["path"]] = self.server.blobs[value["oid"]]
                large.add(value["path"])
        repository.files.update(added)
        repository.large.update(large)
        repository.commits += 1
        url = f"{self.server.url}/{'spaces/' if kind == 'space' else ''}{repo_id}/commit/{repository.sha}"
        self._send({"success": True, "commitOid": repository.sha, "commitUrl": url})

    def resolve(self, kind, repo_id, revision, name):
        repository = self._repository(kind, repo_id)
        if revision not in ("main", repository.sha):
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if name not in repository.files:
            raise _Refused(404, f"{name} does not exist", "EntryNotFound")
        data = repository.files[name]
        etag = hashlib.sha256(data).hexdigest() if name in repository.large else hashlib.sha1(data).hexdigest()
        self._send(data, ETag=f'"{etag}"', **{"X-Repo-Commit": repository.sha, "Accept-Ranges": "none"})


def environment(hub: Hub, home: str, token: str = "") -> dict[str, str]:
    """Variables of a process whose only Hub is this one, with its caches under `home`."""
    caches = ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE", "HF_TOKEN_PATH")
    variables = {name: value for name, value in os.environ.items() if name not in caches}
    return variables | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        # Xet is a service of its own, and downloads are counted at an address that HF_ENDPOINT does not move.
        "HF_HUB_DISABLE_XET": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "OMP_NUM_THREADS": "1",
        # The only package index is a folder.
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(home),
    }
