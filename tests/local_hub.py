"""A small stand-in for the hub on this machine, so that the real client can be tested without a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "org/tiny"


class LocalHub(ThreadingHTTPServer):
    """Serves the files of one folder as `org/tiny` at `COMMIT`, known as `main` too.

    Attributes:
        folder: what is served.
        requests: method and path of every request, in order.
        refusal: status and the hub's own code of the error that every request gets instead, or None.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests: list[str] = []
        self.refusal: tuple[int, str] | None = None

    @property
    def address(self) -> str:
        """What a client takes as the hub's address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.server.refusal is not None:
            self._send(*self.server.refusal)
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            revision = path.removeprefix(f"/api/models/{REPOSITORY}").removeprefix("/revision/") or "main"
            self._send_information() if revision in ("main", COMMIT) else self._send(404, "RevisionNotFound")
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            revision, _, name = path.removeprefix(f"/{REPOSITORY}/resolve/").partition("/")
            file = self.server.folder / name
            if revision not in ("main", COMMIT):
                self._send(404, "RevisionNotFound")
            elif not file.is_file():
                self._send(404, "EntryNotFound")
            else:
                self._send_file(file)
        else:
            self._send(404, "RepoNotFound")

    def _send_information(self) -> None:
        siblings = [
            {"rfilename": path.name, "size": path.stat().st_size} for path in sorted(self.server.folder.iterdir())
        ]
        body = json.dumps({"_id": "1", "id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings})
        self._send(200, body=body.encode())

    def _send_file(self, file: Path) -> None:
        body = file.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Accept-Ranges": "bytes"}
        requested = self.headers.get("Range", "")
        if requested.startswith("bytes="):
            start, _, end = requested.removeprefix("bytes=").partition("-")
            total = len(body)
            body = body[int(start) : int(end) + 1 if end else total]
            headers["Content-Range"] = f"bytes {start}-{int(start) + len(body) - 1}/{total}"
            self._send(206, body=body, headers=headers)
        else:
            self._send(200, body=body, headers=headers)

    def _send(self, status: int, code: str = "", body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def local_hub(folder: Path) -> Iterator[LocalHub]:
    """Serve `folder` until the block ends."""
    server = LocalHub(folder)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
