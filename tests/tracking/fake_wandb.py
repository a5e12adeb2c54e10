"""A W&B server in memory that keeps what it is sent, so that tests can look at it.

It imitates what wandb 0.31 asks of the real one for online runs that are resumed, with rows, tables, images and model
artifacts, and for sweeps with agents: GraphQL under /graphql, the rows of a run under /files/.../file_stream, uploads
under /storage. It was made from requests that were observed, not from a specification, and nothing can be downloaded.
wandb-core crashes where a field that it asked for is missing, so replies are complete.
"""

# ruff: noqa: N802 (the names of the operations are W&B's)

import gzip
import json
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
SWEEP = "sweep1"
DAY = "2026-01-01T00:00:00Z"
PROJECT = {"id": "project", "name": "pruning", "entity": {"id": "entity", "name": "ours"}}


@dataclass
class TrackedRun:
    """What the server has been sent of one run."""

    about: Json = field(default_factory=dict)  # jobType, groupName, displayName, sweep
    config: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)
    exit_code: int | None = None

    def stream(self, sent: Json) -> None:
        """Keep one request of the file stream; rows from `offset` on replace those sent before."""
        files = sent.get("files") or {}
        if rows := files.get("wandb-history.jsonl"):
            self.history[rows["offset"] :] = [json.loads(line) for line in rows["content"]]
        if last := files.get("wandb-summary.json"):
            self.summary = json.loads(last["content"][-1])
        if sent.get("complete"):
            self.exit_code = sent["exitcode"]


class FakeWandb(ThreadingHTTPServer):
    """Serves on the loopback until `with` ends, unless it is killed; it may be revived at the same address."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.environment: Json = {"WANDB_MODE": "", "WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0123456789" * 4}
        self.refuses = False
        self.runs: dict[str, TrackedRun] = {}
        self.artifacts: dict[str, Json] = {}  # by id: what CreateArtifact was given, and whether it is committed
        self.used: dict[str, list[str]] = {}  # by run: the ids of artifacts
        self.views: list[Json] = []  # reports
        self.uploads: dict[str, bytes] = {}  # by path
        self.cells: list[Json] = []  # of the sweep, for agents; put here by the test
        self.sweep = ""
        self.lock = threading.Lock()
        self.connections: list[socket.socket] = []
        self.serve()

    def serve(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def kill(self) -> None:
        """Cut all connections and take no more."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def revive(self) -> None:
        """Serve again, with all that it was sent."""
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()
        self.server_activate()
        self.serve()

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def artifact(self, name: str) -> Json:
        """Return the only version of an artifact, which must be committed."""
        (artifact,) = [each for each in self.artifacts.values() if each["artifactCollectionName"] == name]
        assert artifact["committed"]
        return artifact


class Operations:
    """The GraphQL operations, each under its own name with its variables; an unknown one is answered with {}."""

    def __init__(self, server: FakeWandb) -> None:
        self.server = server

    def answer(self, operation: str, variables: Json) -> Json:
        method = getattr(self, operation, None)
        return method(variables) if method else {}

    def Viewer(self, _: Json) -> Json:
        return {"viewer": {"id": "user", "entity": "ours", "username": "we", "flags": "{}", "teams": {"edges": []}}}

    GetDefaultEntity = Viewer

    def ServerFeaturesQuery(self, _: Json) -> Json:
        return {"serverInfo": {"features": []}}

    def RunResumeStatus(self, given: Json) -> Json:
        run = self.server.runs.get(given["name"])
        return {"model": PROJECT | {"bucket": run and self.resumable(given["name"], run)}}

    def resumable(self, name: str, run: TrackedRun) -> Json:
        """Return all that the client continues from."""
        return self.bucket(name, run) | {
            "summaryMetrics": json.dumps(run.summary),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "logLineCount": 0,
            "eventsLineCount": 0,
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }

    def bucket(self, name: str, run: TrackedRun) -> Json:
        return {
            "id": name,
            "name": name,
            "displayName": run.about.get("displayName", name),
            "config": json.dumps(run.config),
            "historyLineCount": len(run.history),
            "project": PROJECT,
        }

    def UpsertBucket(self, given: Json) -> Json:
        new = given["name"] not in self.server.runs
        run = self.server.runs.setdefault(given["name"], TrackedRun())
        run.about |= {key: value for key, value in given.items() if value is not None}
        run.config |= json.loads(given["config"] or "{}")
        return {"upsertBucket": {"bucket": self.bucket(given["name"], run), "inserted": new}}

    def Run(self, given: Json) -> Json:
        """Answer the public API; None where there is no such run."""
        run = self.server.runs.get(given["name"])
        return {"project": {"run": run and self.whole(given["name"], run)}}

    def whole(self, name: str, run: TrackedRun) -> Json:
        beside = ("sweepName", "commit", "description", "notes", "systemMetrics", "historyKeys")
        return (
            dict.fromkeys(beside)
            | self.bucket(name, run)
            | {
                "user": {"name": "we", "username": "we"},
                "tags": [],
                "projectId": "1",
                "state": "running" if run.exit_code is None else "finished",
                "group": run.about.get("groupName"),
                "jobType": run.about.get("jobType"),
                "summaryMetrics": json.dumps(run.summary),
                "createdAt": DAY,
                "heartbeatAt": DAY,
                "readOnly": False,
            }
        )

    def CreateRunFiles(self, given: Json) -> Json:
        files = [{"name": name, "uploadUrl": self.place(given["run"], name)} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def place(self, *parts: str) -> str:
        return "/".join((self.server.url, "storage", *parts))

    def ArtifactType(self, _: Json) -> Json:
        return {"project": None}

    def CreateArtifact(self, given: Json) -> Json:
        id = f"artifact{len(self.server.artifacts)}"
        self.server.artifacts[id] = given["input"] | {"id": id, "committed": False}
        artifact = {"id": id, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def CreateArtifactManifest(self, given: Json) -> Json:
        id = given["artifactID"]
        file = {"id": "file", "uploadUrl": self.place(id, "manifest"), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"{id}-manifest", "file": file}}}

    def CreateArtifactFiles(self, given: Json) -> Json:
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": self.place(file["artifactID"], file["name"]),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in given["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def CommitArtifact(self, given: Json) -> Json:
        artifact = self.server.artifacts[given["artifactID"]]
        artifact["committed"] = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": artifact["digest"]}}}

    def ArtifactMembershipByName(self, given: Json) -> Json:
        """Answer with the newest version; None where there is none that is committed."""
        name = given["name"].partition(":")[0]
        found = [a for a in self.server.artifacts.values() if a["artifactCollectionName"] == name and a["committed"]]
        return {"project": {"artifactCollectionMembership": self.membership(name, found[-1]) if found else None}}

    def membership(self, name: str, artifact: Json) -> Json:
        project = PROJECT | {"internalId": "1"}
        whole = dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt")) | {
            "__typename": "Artifact",
            "id": artifact["id"],
            "artifactSequence": {"__typename": "ArtifactSequence", "name": name, "project": project},
            "versionIndex": 0,
            "artifactType": {"name": artifact["artifactTypeName"]},
            "metadata": artifact["metadata"],
            "ttlIsInherited": False,
            "ttlDurationSeconds": 0,
            "tags": [],
            "state": "COMMITTED",
            "size": 1,
            "digest": artifact["digest"],
            "fileCount": 1,
            "createdAt": DAY,
            "aliases": [],
        }
        of = {"__typename": "ArtifactSequence", "name": name, "project": project}
        about = {"__typename": "ArtifactCollectionMembership", "id": name, "versionIndex": 0, "createdAt": DAY}
        return about | {"aliases": [], "artifactCollection": of, "artifact": whole}

    def UseArtifact(self, given: Json) -> Json:
        self.server.used.setdefault(given["runName"], []).append(given["artifactID"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}

    def ProjectInternalId(self, _: Json) -> Json:
        return {"project": {"id": PROJECT["id"], "internalId": "1"}}

    def GetProjects(self, _: Json) -> Json:
        kind = {"__typename": "Project", "user": None}
        project = PROJECT | kind | {"entityName": "ours", "createdAt": DAY, "isBenchmark": False}
        edges = [{"node": project, "cursor": ""}]
        page = {"__typename": "PageInfo", "endCursor": "", "hasNextPage": False}
        return {"models": {"edges": edges, "pageInfo": page}}

    def upsertView(self, given: Json) -> Json:
        self.server.views.append(given)
        about = {key: given.get(key) for key in ("type", "name", "displayName", "description", "spec")}
        project = {"id": "project", "name": given["projectName"], "entityName": given["entityName"]}
        return {"upsertView": {"view": about | {"id": "view", "project": project, "updatedAt": DAY}, "inserted": True}}

    def UpsertSweep(self, given: Json) -> Json:
        self.server.sweep = given["config"]
        return {"upsertSweep": {"sweep": {"name": SWEEP, "project": PROJECT}, "configValidationWarnings": []}}

    def SweepWithRuns(self, _: Json) -> Json:
        return {"project": {"sweep": {"name": SWEEP, "config": self.server.sweep, "runs": {"edges": []}}}}

    def CreateAgent(self, _: Json) -> Json:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def Heartbeat(self, given: Json) -> Json:
        """Give the agent the next cell; let it go when there is none left and none runs."""
        commands: list[Json] = []
        if self.server.cells:
            args = {key: {"value": value} for key, value in self.server.cells.pop(0).items()}
            run = f"cell{len(self.server.cells)}"
            commands = [{"type": "run", "id": run, "run_id": run, "program": "main.py", "args": args}]
        elif json.loads(given["runState"]) == {}:
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}


class Requests(BaseHTTPRequestHandler):
    """HTTP/1.1 around the rest."""

    server: FakeWandb
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def do_PUT(self) -> None:
        self.server.uploads[self.path] = self.content()
        self.reply({})

    def do_POST(self) -> None:
        content = self.content()
        if self.server.refuses:
            self.send_error(403)
        else:
            with self.server.lock:
                answer = self.answer(content)
            self.reply(answer)

    def answer(self, content: bytes) -> Json:
        if self.path == "/graphql":
            asked = json.loads(content)
            found = re.search(r"\b(?:query|mutation)\s+(\w+)", asked["query"])  # the public API names it there only
            name = asked.get("operationName") or (found[1] if found else "")
            return {"data": Operations(self.server).answer(name, asked.get("variables") or {})}
        if self.path.endswith("/file_stream"):  # /files/ENTITY/PROJECT/RUN/file_stream
            self.server.runs[self.path.split("/")[-2]].stream(json.loads(content))
            return {"exitcode": None, "limits": {}}
        return {}  # telemetry

    def content(self) -> bytes:
        sent = self.rfile.read(int(self.headers["Content-Length"] or 0))
        return gzip.decompress(sent) if self.headers["Content-Encoding"] == "gzip" else sent

    def reply(self, answer: Json) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""
