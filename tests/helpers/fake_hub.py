"""A stand-in for the hub's HTTP API on this machine: what creating, committing to and reading models needs of it.

The client is the real huggingface_hub, which reads `HF_ENDPOINT` when it is imported: use it in a new process.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Repositories by name, each with its branches' files; a context manager that serves them.

    Attributes:
        repos: repository -> branch -> path -> content.
        commits: repository, branch, message, added paths and deleted paths of every commit.
        created: what was asked for when a repository was made.
    """

    def __init__(self):
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.commits: list[dict] = []
        self.created: list[dict] = []

    def __enter__(self) -> FakeHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home) -> dict[str, str]:
        """The variables that lead a process here; `home` becomes its cache."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_token",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def sha(self, repo: str, branch: str) -> str:
        """A commit hash that changes with the branch's content."""
        files = sorted(self.repos[repo][branch].items())
        return hashlib.sha1(repr((repo, [(path, hashlib.sha1(c).digest()) for path, c in files])).encode()).hexdigest()

    def branch(self, repo: str, revision: str) -> str | None:
        """The branch that a name or a commit hash stands for."""
        branches = self.repos.get(repo, {})
        return next((name for name in branches if revision in (name, self.sha(repo, name))), None)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.read()

    def do_GET(self):
        self.read()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.parts():
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.answer({"errors": [], "warnings": []})
            case ["api", "models", owner, name, "branch", branch]:
                repo = f"{owner}/{name}"
                self.hub.repos[repo].setdefault(branch, dict(self.hub.repos[repo]["main"]))
                self.answer({})
            case ["api", "models", _, _, "preupload", _]:
                files = json.loads(body)["files"]
                answer = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                self.answer({"files": answer})
            case ["api", "models", owner, name, "commit", branch]:
                self.commit(f"{owner}/{name}", branch, [json.loads(line) for line in body.splitlines()])
            case _:
                self.missing("RepoNotFound")

    def create(self, wanted: dict):
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        self.hub.created.append({**wanted, "repo": repo})
        status = 409 if repo in self.hub.repos else 200
        self.hub.repos.setdefault(repo, {"main": {".gitattributes": b""}})
        self.answer({"url": self.url(repo)}, status)

    def commit(self, repo: str, branch: str, lines: list[dict]):
        is_request = "create_pr" in self.path
        target = "refs/pr/1" if is_request else branch
        files = self.hub.repos[repo].setdefault(target, dict(self.hub.repos[repo][branch]))
        record = {"repo": repo, "branch": target, "added": [], "deleted": []}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                record["message"] = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                record["added"].append(value["path"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
                record["deleted"].append(value["path"])
        self.hub.commits.append(record)
        sha = self.hub.sha(repo, target)
        answer = {"commitUrl": f"{self.url(repo)}/commit/{sha}", "commitOid": sha, "hookOutput": ""}
        if is_request:
            answer["pullRequestUrl"] = f"{self.url(repo)}/discussions/1"
        self.answer(answer)

    def read(self):
        match self.parts():
            case ["api", "whoami-v2"]:
                self.answer({"name": "me", "type": "user", "orgs": []})
            case ["api", "models", owner, name]:
                self.info(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "revision", revision]:
                self.info(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", revision, *_]:
                self.tree(f"{owner}/{name}", revision)
            case [owner, name, "resolve", revision, *path]:
                self.file(f"{owner}/{name}", revision, "/".join(path))
            case _:
                self.missing("RepoNotFound")

    def info(self, repo: str, revision: str):
        branch = self.hub.branch(repo, revision)
        if branch is None:
            self.missing("RevisionNotFound" if repo in self.hub.repos else "RepoNotFound")
            return
        siblings = [{"rfilename": path} for path in self.hub.repos[repo][branch]]
        self.answer(
            {"id": repo, "sha": self.hub.sha(repo, branch), "siblings": siblings, "private": False, "tags": []}
        )

    def tree(self, repo: str, revision: str):
        branch = self.hub.branch(repo, revision)
        if branch is None:
            self.missing("RevisionNotFound")
            return
        files = self.hub.repos[repo][branch]
        self.answer([{"type": "file", "path": path, "size": len(files[path]), "oid": "0" * 40} for path in files])

    def file(self, repo: str, revision: str, path: str):
        branch = self.hub.branch(repo, revision)
        if branch is None:
            self.missing("RepoNotFound")
            return
        content = self.hub.repos[repo][branch].get(path)
        commit = {"X-Repo-Commit": self.hub.sha(repo, branch)}
        if content is None:
            self.missing("EntryNotFound", commit)
        else:
            self.answer(content, headers={**commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    def parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def url(self, repo: str) -> str:
        return f"http://{self.headers['Host']}/{repo}"

    def missing(self, code: str, headers: dict | None = None):
        self.answer({"error": code}, 404, {"X-Error-Code": code, **(headers or {})})

    def answer(self, content, status: int = 200, headers: dict | None = None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(content, bytes) else "application/json"
        )
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
