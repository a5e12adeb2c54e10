# ruff: noqa: N802 (the names of the operations are W&B's)
"""Tiny in-memory W&B server for tests: GraphQL + file_stream + storage, loopback only."""

import contextlib
import gzip
import http.server
import json
import re
import threading


class Store:
    def __init__(self):
        self.runs, self.files, self.arts, self.ops, self.lock = {}, {}, {}, [], threading.RLock()


def handler(st: Store):
    class H(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *a):
            pass

        def handle(self):
            with contextlib.suppress(ConnectionError):
                super().handle()

        def reply(self, obj, code=200):
            out = obj if isinstance(obj, bytes) else json.dumps(obj).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def body(self):
            b = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(b) if self.headers.get("Content-Encoding") == "gzip" else b

        def base(self):
            return f"http://{self.headers['Host']}"

        def do_GET(self):
            st.ops.append(("GET", self.path))
            if self.path.startswith("/storage/"):
                d = st.files.get(self.path)
                return self.reply(d if d is not None else b"{}", 200 if d is not None else 404)
            self.reply({})

        def do_PUT(self):
            b = self.body()
            st.ops.append(("PUT", self.path))
            with st.lock:
                st.files[self.path] = b
            self.reply({})

        def do_POST(self):
            raw = self.body()
            m = re.match(r"/files/([^/]*)/([^/]*)/([^/]*)/file_stream|/files/([^/]*)/([^/]*)/file_stream", self.path)
            if m:
                st.ops.append(("FILESTREAM", self.path))
                name = m.group(3) or m.group(5)
                d = json.loads(raw)
                with st.lock:
                    r = st.runs.setdefault(name, {"history": [], "summary": {}, "logs": [], "complete": None})
                    for f, c in (d.get("files") or {}).items():
                        if f == "wandb-history.jsonl":
                            off = c["offset"]
                            del r["history"][off:]
                            r["history"] += [json.loads(x) for x in c["content"]]
                        elif f == "wandb-summary.json":
                            r["summary"] = json.loads(c["content"][-1])
                        elif f == "output.log":
                            r["logs"] += c["content"]
                        else:
                            r.setdefault("other", {}).setdefault(f, []).extend(c["content"])
                    if d.get("complete"):
                        r["complete"] = d.get("exitcode")
                return self.reply({"exitcode": None, "limits": {}})
            if self.path != "/graphql":
                st.ops.append(("POST", self.path))
                return self.reply({})
            q = json.loads(raw)
            v = q.get("variables") or {}
            op = q.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", q.get("query", "")).group(1)
            st.ops.append(("GQL", op, q.get("query"), v))
            with st.lock:
                fn = getattr(self, "op_" + (op or "none"), None)
                data = fn(v) if fn else {}
            self.reply({"data": data})

        # --- GraphQL operations
        def op_Viewer(self, v):
            return {
                "viewer": {
                    "id": "u1",
                    "entity": "ent",
                    "username": "u",
                    "email": "u@x",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }

        def op_ServerFeaturesQuery(self, v):
            return {"serverInfo": {"features": []}}

        def op_UpsertBucket(self, v):
            name = v.get("name") or v.get("id")
            new = name not in st.runs or "config" not in st.runs[name]
            r = st.runs.setdefault(name, {"history": [], "summary": {}, "logs": [], "complete": None})
            r.setdefault("config", {}).update(json.loads(v.get("config") or "{}"))
            for k in ("groupName", "jobType", "displayName", "project", "tags", "host", "sweep"):
                if v.get(k) is not None:
                    r[k] = v[k]
            return {
                "upsertBucket": {
                    "bucket": {
                        "id": "B" + name,
                        "name": name,
                        "displayName": r.get("displayName") or name,
                        "description": None,
                        "config": json.dumps(r["config"]),
                        "sweepName": None,
                        "historyLineCount": len(r["history"]),
                        "project": {
                            "id": "P",
                            "name": v.get("project") or r.get("project"),
                            "entity": {"id": "E", "name": "ent"},
                        },
                    },
                    "inserted": new,
                }
            }

        def op_RunResumeStatus(self, v):
            r = st.runs.get(v["name"])
            if not r or "config" not in r:
                return {
                    "model": {"id": "P", "name": v.get("project"), "entity": {"id": "E", "name": "ent"}, "bucket": None}
                }
            h = r["history"]
            return {
                "model": {
                    "id": "P",
                    "name": v.get("project"),
                    "entity": {"id": "E", "name": "ent"},
                    "bucket": {
                        "id": "B" + v["name"],
                        "name": v["name"],
                        "summaryMetrics": json.dumps(r["summary"]),
                        "displayName": r.get("displayName"),
                        "logLineCount": len(r["logs"]),
                        "historyLineCount": len(h),
                        "eventsLineCount": 0,
                        "historyTail": json.dumps([json.dumps(h[-1])] if h else []),
                        "eventsTail": "[]",
                        "config": json.dumps(r["config"]),
                        "tags": r.get("tags") or [],
                        "wandbConfig": json.dumps({"t": 1}),
                    },
                }
            }

        def op_ArtifactType(self, v):
            return {"project": None}

        def op_CreateArtifact(self, v):
            i = v["input"]
            aid = f"A{len(st.arts)}"
            st.arts[aid] = {
                "name": i["artifactCollectionName"],
                "type": i["artifactTypeName"],
                "aliases": [a["alias"] for a in i.get("aliases") or []],
                "metadata": i.get("metadata"),
                "run": i.get("runName"),
                "digest": i.get("digest"),
                "state": "PENDING",
                "input": i,
            }
            return {
                "createArtifact": {
                    "artifact": {"id": aid, "state": "PENDING", "artifactSequence": {"id": "S", "latestArtifact": None}}
                }
            }

        def op_CreateArtifactManifest(self, v):
            aid = v.get("artifactID") or v["input"]["artifactID"]
            return {
                "createArtifactManifest": {
                    "artifactManifest": {
                        "id": "M" + aid,
                        "file": {
                            "id": "F",
                            "name": "wandb_manifest.json",
                            "displayName": "wandb_manifest.json",
                            "uploadUrl": f"{self.base()}/storage/art/{aid}/manifest",
                            "uploadHeaders": [],
                        },
                    }
                }
            }

        def op_UpdateArtifactManifest(self, v):
            return {
                "updateArtifactManifest": {
                    "artifactManifest": {
                        "id": "M",
                        "file": {
                            "id": "F",
                            "name": "wandb_manifest.json",
                            "displayName": "m",
                            "uploadUrl": f"{self.base()}/storage/art/u/manifest",
                            "uploadHeaders": [],
                        },
                    }
                }
            }

        def op_CreateArtifactFiles(self, v):
            fs = v.get("artifactFiles") or v["input"]["artifactFiles"]
            return {
                "createArtifactFiles": {
                    "files": {
                        "edges": [
                            {
                                "node": {
                                    "id": f"F{n}",
                                    "name": x["name"],
                                    "displayName": x["name"],
                                    "uploadUrl": f"{self.base()}/storage/art/{x['artifactID']}/{x['name']}",
                                    "uploadHeaders": [],
                                    "uploadMultipartUrls": None,
                                    "storagePath": "s",
                                    "artifact": {"id": x["artifactID"]},
                                }
                            }
                            for n, x in enumerate(fs)
                        ]
                    }
                }
            }

        def op_CommitArtifact(self, v):
            aid = v.get("artifactID") or v["input"]["artifactID"]
            st.arts[aid]["state"] = "COMMITTED"
            return {"commitArtifact": {"artifact": {"id": aid, "digest": st.arts[aid]["digest"]}}}

        def _frag(self, aid):
            a = st.arts[aid]
            ver = [k for k in st.arts if st.arts[k]["name"] == a["name"]].index(aid)
            proj = {"id": "P", "internalId": "P1", "name": "p", "entity": {"name": "ent"}}
            coll = {"__typename": "ArtifactSequence", "name": a["name"], "project": proj}
            return {
                "__typename": "Artifact",
                "id": aid,
                "artifactSequence": coll,
                "versionIndex": ver,
                "artifactType": {"name": a["type"]},
                "description": None,
                "metadata": a["metadata"],
                "ttlDurationSeconds": -2,
                "ttlIsInherited": True,
                "tags": [],
                "historyStep": None,
                "state": a["state"],
                "size": 1,
                "digest": a["digest"],
                "commitHash": "c",
                "fileCount": 1,
                "createdAt": "2026-01-01T00:00:00",
                "updatedAt": None,
                "aliases": [
                    {"__typename": "ArtifactAlias", "id": "al" + x, "alias": x, "artifactCollection": coll}
                    for x in a["aliases"]
                ],
            }

        def op_ArtifactByID(self, v):
            return {"artifact": self._frag(v["id"])}

        def op_ArtifactMembershipByName(self, v):
            n, _, al = v["name"].partition(":")
            ids = [k for k, a in st.arts.items() if a["name"] == n]
            if not ids:
                return {"project": {"artifactCollectionMembership": None}}
            aid = ids[int(al[1:])] if re.fullmatch(r"v\d+", al) else ids[-1]
            f = self._frag(aid)
            return {
                "project": {
                    "artifactCollectionMembership": {
                        "__typename": "ArtifactCollectionMembership",
                        "id": "X",
                        "versionIndex": f["versionIndex"],
                        "createdAt": f["createdAt"],
                        "aliases": [{k: x[k] for k in ("__typename", "id", "alias")} for x in f["aliases"]],
                        "artifactCollection": f["artifactSequence"],
                        "artifact": f,
                    }
                }
            }

        def op_UseArtifact(self, v):
            i = v.get("input") or v
            st.ops.append(("USED", i.get("artifactID"), i.get("runName")))
            return {"useArtifact": {"artifact": self._frag(i["artifactID"])}}

        def op_FetchArtifactManifest(self, v):
            return {
                "artifact": {
                    "currentManifest": {"file": {"directUrl": f"{self.base()}/storage/art/{v['id']}/manifest"}}
                }
            }

        def op_GetArtifactMembershipFileUrls(self, v):
            ids = [k for k, a in st.arts.items() if a["name"] == v["collection"]]
            aid = ids[int(v["alias"][1:])]
            p = f"/storage/art/{aid}/"
            nodes = [
                {"node": {"__typename": "File", "name": x[len(p) :], "directUrl": self.base() + x}}
                for x in st.files
                if x.startswith(p) and x != p + "manifest"
            ]
            return {
                "project": {
                    "artifactCollection": {
                        "__typename": "ArtifactSequence",
                        "artifactMembership": {
                            "files": {
                                "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
                                "edges": nodes,
                            }
                        },
                    }
                }
            }

        def op_UpsertSweep(self, v):
            st.sweep = v["config"]
            return {
                "upsertSweep": {
                    "sweep": {"name": "sw1", "project": {"id": "P", "name": "p", "entity": {"id": "E", "name": "ent"}}},
                    "configValidationWarnings": [],
                }
            }

        def op_SweepWithRuns(self, v):
            return {
                "project": {
                    "sweep": {
                        "id": "SW",
                        "name": "sw1",
                        "method": "grid",
                        "state": "RUNNING",
                        "description": None,
                        "config": st.sweep,
                        "createdAt": "2026-01-01T00:00:00",
                        "heartbeatAt": None,
                        "updatedAt": None,
                        "earlyStopJobRunning": False,
                        "bestLoss": None,
                        "controller": None,
                        "scheduler": None,
                        "runs": {"edges": []},
                    }
                }
            }

        def op_CreateAgent(self, v):
            st.queue = [
                {
                    "type": "run",
                    "id": f"c{i}",
                    "run_id": f"swr{i}",
                    "program": "main.py",
                    "args": {k: {"value": x} for k, x in a.items()},
                }
                for i, a in enumerate(st.grid)
            ] + [{"type": "exit"}]
            return {"createAgent": {"agent": {"id": "AG"}}}

        def op_Heartbeat(self, v):
            c = [st.queue.pop(0)] if st.queue and v.get("runState") in ("{}", None) else []
            return {"agentHeartbeat": {"agent": {"id": "AG"}, "commands": json.dumps(c)}}

        def op_CreateRunFiles(self, v):
            return {
                "createRunFiles": {
                    "runID": "B" + v["run"],
                    "uploadHeaders": [],
                    "files": [{"name": f, "uploadUrl": f"{self.base()}/storage/{v['run']}/{f}"} for f in v["files"]],
                }
            }

    return H


class FakeWandb:
    def __init__(self, port=0):
        self.store = Store()
        self.srv = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler(self.store))
        self.url = f"http://127.0.0.1:{self.srv.server_address[1]}"
        self.t = threading.Thread(target=self.srv.serve_forever, daemon=True)
        self.t.start()

    def close(self):
        self.srv.shutdown()
        self.srv.server_close()


    def dump(self):
        pass
import atexit
ALL=[]
_i=FakeWandb.__init__
def init(self,port=0):
    _i(self,port); ALL.append(self.store)
FakeWandb.__init__=init
def dump():
    with open("/tmp/h_tracking/ops.json","a") as f:
        for st in ALL:
            f.write(json.dumps(st.ops)+"\n")
atexit.register(dump)
