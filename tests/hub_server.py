"""A stand-in for the Hub on loopback: as much of its API as huggingface_hub asks, with a log of fetches."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves the folders of `repos` ("org/name": folder); `fetched` lists ("org/name", "path/in/repo")."""

    def __init__(self, repos: dict[str, Path]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.fetched = repos, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, rest = "/".join(parts[2:4]), parts[4:]
            if repo not in self.server.repos:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif rest[:1] == ["tree"]:
                self.answer_json([{"type": "file", **self.describe(repo, path)} for path in self.files(repo)])
            else:
                siblings = [{"rfilename": path} for path in self.files(repo)]
                self.answer_json({"_id": "0", "id": repo, "sha": COMMIT, "siblings": siblings, "private": False})
        elif len(parts) > 4 and parts[2] == "resolve":
            self.resolve("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self.answer(404, b"", {})

    def resolve(self, repo, path):
        folder = self.server.repos.get(repo)
        if folder is None or not (folder / path).is_file():
            code = "RepoNotFound" if folder is None else "EntryNotFound"
            self.answer(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
            return
        data = (folder / path).read_bytes()
        if self.command == "GET":
            self.server.fetched.append((repo, path))
        self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def files(self, repo):
        folder = self.server.repos[repo]
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def describe(self, repo, path):
        data = (self.server.repos[repo] / path).read_bytes()
        return {"path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
