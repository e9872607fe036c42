"""A stand-in for Dataflow's service: takes jobs over its REST API, and runs their staged graphs.

What `DataflowRunner` stages and submits is what it would give to the real service; only the workers
are others: `FnApiRunner`'s, in this process.
"""

import contextlib
import datetime
import http.server
import json
import re
import threading
import traceback
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

_JOBS = re.compile(r"/v1b3/projects/[^/]+/locations/[^/]+/jobs(?:/([^/]+))?(?:/(\w+))?$")


class Service:
    """Jobs as they came, each a dict of Dataflow's Job; `refuse` says how the next ones end."""

    def __init__(self):
        self.jobs: list[dict[str, Any]] = []
        #: States that the next jobs end in without having run: JOB_STATE_CANCELLED, ...
        self.refuse: list[str] = []
        self.messages: dict[str, list[str]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self.port = 0

    def options(self, folder, name="test"):
        """Of a pipeline that is to run here; staging goes below the folder."""
        (folder / "staging").mkdir(parents=True, exist_ok=True)
        return [
            "--runner=DataflowRunner",
            "--project=some-project",
            "--region=us-central1",
            f"--job_name={name}",
            "--no_auth",
            f"--dataflow_endpoint=http://localhost:{self.port}",
            f"--staging_location={folder}/staging",
            f"--temp_location={folder}/temp",
        ]

    def create(self, job):
        job |= {"id": f"job-{len(self.jobs)}", "createTime": _now()}
        job["currentState"], job["currentStateTime"] = "JOB_STATE_RUNNING", _now()
        self.jobs.append(job)
        self.messages[job["id"]] = []
        if self.refuse:
            job["currentState"] = self.refuse.pop(0)
        else:
            self._threads[job["id"]] = threading.Thread(target=self._run, args=(job,))
            self._threads[job["id"]].start()
        return job

    def end_of(self, job):
        """The state that a job ends in."""
        self._threads[job["id"]].join()
        return job["currentState"]

    def _run(self, job):
        try:
            FnApiRunner().run_via_runner_api(graph_of(job), PipelineOptions([])).wait_until_finish()
            job["currentState"] = "JOB_STATE_DONE"
        except Exception:
            self.messages[job["id"]].append(traceback.format_exc())
            job["currentState"] = "JOB_STATE_FAILED"


def graph_of(job):
    """The staged graph of a job, for workers in this process."""
    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    proto = beam_runner_api_pb2.Pipeline()
    with open(url, "rb") as staged:
        proto.ParseFromString(staged.read())
    here = EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in proto.components.environments.values():
        environment.urn, environment.payload = here.urn, here.payload
        del environment.dependencies[:]
    return proto


def _now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Handler(http.server.BaseHTTPRequestHandler):
    service: Service

    def do_POST(self):
        assert _JOBS.match(self.path.partition("?")[0]), self.path
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(self.service.create(json.loads(body)))

    def do_GET(self):
        found = _JOBS.match(self.path.partition("?")[0])
        assert found, self.path
        (job,) = (one for one in self.service.jobs if one["id"] == found.group(1))
        if found.group(2) == "messages":
            texts = self.service.messages[job["id"]]
            messages = [
                {
                    "id": str(place),
                    "time": _now(),
                    "messageText": text,
                    "messageImportance": "JOB_MESSAGE_ERROR",
                }
                for place, text in enumerate(texts)
            ]
            self._answer({"jobMessages": messages})
        elif found.group(2) == "metrics":
            self._answer({"metrics": []})
        else:
            self._answer(job)

    def _answer(self, value):
        fields = {name: value[name] for name in value if name not in ("environment", "steps")}
        text = json.dumps(fields).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving():
    """A service on a port of this machine's own, in a thread."""
    service = Service()
    handler = type("Handler", (_Handler,), {"service": service})
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
