"""A small W&B server on a loopback port: it takes runs with files and artifacts, or stalls, or refuses.

It answers the questions that `wandb` 0.31 asks while a run is tracked or synchronised, and keeps what it is given.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

KEY = "0123456789" * 4
"""A key of the length that the client wants."""
_OPERATION = re.compile(r"(?:query|mutation) (\w+)")
RUN_ID, MANIFEST_ID = "UnVuOjE=", "TWFuaWZlc3Q6MQ=="


class WandbServer(ThreadingHTTPServer):
    """What was given, and how it behaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.behaviour = "takes"
        """Or `stalls`, or `refuses`."""
        self.stalls_after_a_run = False
        """Whether it stalls once it has taken a run."""
        self.closing = Event()
        self.runs: list[dict[str, Any]] = []
        """What was said of runs, as it came."""
        self.lines: dict[str, list[dict[str, Any]]] = {"wandb-history.jsonl": [], "wandb-events.jsonl": []}
        """Lines of figures, and of the machine's use."""
        self.exit_codes: list[int] = []
        self.files: dict[str, bytes] = {}
        """Files of runs by name, those of artifacts below the artifact's."""
        self.artifacts: list[dict[str, Any]] = []
        self.used: list[str] = []
        """Artifacts that were named as what a run has used."""
        self.unknown: list[str] = []
        """What it has no answer to."""

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What has a training track here."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY, "OKRUH_TRACKING": "online"}

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:  # noqa: C901 - a case a question
        """Answer a question."""
        match operation:
            case "Viewer" | "ServerInfo":
                viewer = {"id": "user", "entity": "team", "username": "somebody", "email": "", "flags": "{}"}
                return {"viewer": viewer | {"teams": {"edges": []}}, "serverInfo": None}
            case "UpsertBucket":
                self.runs.append(given)
                self.behaviour = "stalls" if self.stalls_after_a_run else self.behaviour
                project = {"name": given["project"], "entity": {"name": "team"}}
                bucket = {"id": RUN_ID, "name": given["name"], "displayName": given["displayName"], "project": project}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.address}/put/{name}"} for name in given["files"]]
                return {"createRunFiles": {"runID": RUN_ID, "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                self.artifacts.append(given["input"])
                made = {
                    "id": given["input"]["artifactCollectionName"],
                    "state": "PENDING",
                    "artifactSequence": {"id": "s", "latestArtifact": None},
                }
                return {"createArtifact": {"artifact": made}}
            case "CreateArtifactManifest":
                file = {"id": "f", "name": given["name"], "displayName": given["name"], "uploadHeaders": []}
                place = f"{self.address}/put/{given['artifactID']}/{given['name']}"
                file["uploadUrl"] = place if given["includeUpload"] else None
                return {"createArtifactManifest": {"artifactManifest": {"id": MANIFEST_ID, "file": file}}}
            case "CreateArtifactFiles":
                edges = [
                    {"node": self._file(file["artifactID"], file["name"])} for file in given["input"]["artifactFiles"]
                ]
                return {"createArtifactFiles": {"files": {"edges": edges}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "GetDefaultEntity":
                return {"viewer": {"id": "user", "username": "somebody", "entity": "team", "name": "team"}}
            case "Run":
                empty = dict.fromkeys(("sweepName", "group", "jobType", "commit", "historyKeys"))
                known = {
                    "id": RUN_ID,
                    "name": given["name"],
                    "state": "finished",
                    "config": "{}",
                    "tags": [],
                    "user": {},
                }
                known |= {"projectId": "1", "systemMetrics": "{}", "summaryMetrics": "{}"}
                return {"project": {"internalId": "1", "run": empty | known}}
            case "ArtifactType":
                return {"project": None}
            case "ArtifactMembershipByName":
                return {"project": {"artifactCollectionMembership": _member(*given["name"].split(":"))}}
            case "UseArtifact":
                self.used.append(given["artifactID"])
                return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}
            case _:
                self.unknown.append(operation)
                return {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let clients go that have closed the connection; the rest is a mistake of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def _file(self, artifact: str, name: str) -> dict[str, Any]:
        file = {"id": name, "name": name, "displayName": name, "uploadUrl": f"{self.address}/put/{artifact}/{name}"}
        nothing: dict[str, Any] = {"uploadHeaders": [], "uploadMultipartUrls": None, "storagePath": None}
        return file | nothing | {"artifact": {"id": artifact}}


def _member(collection: str, alias: str) -> dict[str, Any]:
    """Describe a version of an artifact, as its alias finds it."""
    project = {"id": "project", "internalId": "1", "name": "okruh", "entity": {"name": "team"}}
    named = {"__typename": "ArtifactSequence", "name": collection, "project": project}
    at = "2020-01-01T00:00:00"
    aliases = [{"__typename": "ArtifactAlias", "id": "alias", "alias": alias, "artifactCollection": named}]
    nothing = dict.fromkeys(("description", "metadata", "historyStep", "commitHash"))
    artifact = {
        "__typename": "Artifact",
        "id": f"{collection}:{alias}",
        "artifactSequence": named,
        "versionIndex": 0,
        "artifactType": {"name": "model"},
        "ttlDurationSeconds": 0,
        "ttlIsInherited": False,
        "tags": [],
        "state": "COMMITTED",
        "size": 1,
        "digest": "d",
        "fileCount": 1,
        "createdAt": at,
        "updatedAt": at,
        "aliases": aliases,
    }
    member = {"__typename": "ArtifactCollectionMembership", "id": "m", "versionIndex": 0, "createdAt": at}
    return member | {"aliases": aliases, "artifactCollection": named, "artifact": artifact | nothing}


class _Asked(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.behaviour == "stalls":
            self.server.closing.wait()
            self.close_connection = True
        elif self.server.behaviour == "refuses":
            self._answer({"error": "out of order"}, 500)
        elif self.path == "/lines":
            self._answer(self.server.lines)
        elif self.path == "/graphql":
            asked = json.loads(content)
            (operation,) = _OPERATION.findall(asked["query"])
            given = asked.get("variables") or {}
            self._answer({"data": self.server.answer(operation, given)})
        elif self.path.endswith("/file_stream"):
            self._take(json.loads(content))
            self._answer({})
        else:
            self.server.files[self.path.removeprefix("/put/")] = content
            self._answer({})

    do_PUT = do_GET = do_POST

    def _take(self, told: dict[str, Any]) -> None:
        for name, lines in self.server.lines.items():
            lines += [json.loads(line) for line in told.get("files", {}).get(name, {}).get("content", [])]
        if told.get("complete"):
            self.server.exit_codes.append(told["exitcode"])

    def _answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (http.server's name)
        """Say nothing."""


@contextmanager
def serving() -> Iterator[WandbServer]:
    """Run a server of its own."""
    with WandbServer() as server:
        running = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        running.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            running.join()
