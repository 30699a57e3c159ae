"""A stand-in for the Hub on loopback: as much of its API as huggingface_hub asks, with a log of fetches."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


TOKEN = "hf_" + "x" * 34


class HubServer(ThreadingHTTPServer):
    """Serves the folders of `repos` ("org/name" or "org/name@revision": folder).

    `private` names those that ask for `TOKEN`; `fetched` lists ("org/name", "path/in/repo"); what is pushed is written
    to a new folder in `uploads` and served from there.
    """

    def __init__(self, repos: dict[str, Path], private=(), uploads: Path | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.private, self.uploads, self.fetched = repos, private, uploads, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def find(self, repo: str, revision: str):
        """Commit and folder of a revision, given by name or by commit; None if there is none."""
        for key, folder in self.repos.items():
            name, _, branch = key.partition("@")
            if name == repo and revision in (branch or "main", commit(key)):
                return commit(key), folder
        return None


def commit(key: str) -> str:
    return hashlib.sha1(key.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.describe_repo("/".join(parts[2:4]), *parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.answer(404, b"", {})

    def do_POST(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b"{}", {})
        elif parts[-2:] == ["repos", "create"]:
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            self.server.repos[repo] = self.server.uploads / repo.replace("/", "--")
            self.answer_json({"url": f"{self.server.endpoint}/{repo}", "id": repo})
        elif "preupload" in parts:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer_json({"files": files})
        elif "commit" in parts:
            repo = "/".join(parts[2:4])
            for line in filter(None, body.split(b"\n")):
                entry = json.loads(line)
                if entry["key"] == "file":
                    path = self.server.repos[repo] / entry["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(entry["value"]["content"]))
            url = f"{self.server.endpoint}/{repo}/commit/{commit(repo)}"
            self.answer_json({"commitUrl": url, "commitOid": commit(repo), "success": True})
        else:  # validate-yaml
            self.answer_json({"warnings": [], "errors": []})

    def describe_repo(self, repo, kind="revision", revision="main", *_):
        found = self.find(repo, revision)
        if found is None:
            return
        sha, folder = found
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if kind == "tree":
            entries = [{"type": "file", **describe(folder, path)} for path in files]
            self.answer_json(entries)
        else:
            siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
            self.answer_json({"_id": "0", "id": repo, "sha": sha, "siblings": siblings, "private": False})

    def resolve(self, repo, revision, path):
        found = self.find(repo, revision)
        if found is None:
            return
        sha, folder = found
        if not (folder / path).is_file():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            return
        data = (folder / path).read_bytes()
        if self.command == "GET":
            self.server.fetched.append((repo, path))
        self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha})

    def find(self, repo, revision):
        """What the server finds, or an answer that says why not."""
        if repo in self.server.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        found = self.server.find(repo, revision)
        if found is None:
            known = any(key.partition("@")[0] == repo for key in self.server.repos)
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        return found

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def describe(folder, path):
    data = path.read_bytes()
    return {"path": str(path.relative_to(folder)), "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
