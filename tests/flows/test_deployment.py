"""`prefect.yaml` on a real Prefect server with a real worker: schedules run, and an alarm starts retraining, once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import httpx
import msgspec
import pytest

from infra import bentos
from infra.assembly import assemble
from infra.guard import Guard
from infra.lake.transaction import transaction
from infra.serving_process import free_port
from infra.settings import Settings
from models.bundle import Bundle, bundle_folder
from models.deciding import rollout
from models.deciding.rollout import Rollout
from models.watching import profile
from models.watching.profile import LossProfile, Profile
from tests.conftest import BundleMaker

MODEL = "taxi_eta"
WITHIN_S = 90.0
GRACE_S = 15.0
"""A worker that is told to end takes up to 10 s, and lets its runs end before."""
EMIT_TWICE = f"""
from flows.monitor import ALARM_EVENT
from flows.orchestration import emit

for alarm in ("first", "second"):
    emit(ALARM_EVENT, {MODEL!r}, {{"alarm": alarm}})
"""


class Patient(httpx.HTTPTransport):
    """Asks again while Prefect's server finds its database locked (503), as Prefect's own client does."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Give the first answer that is another one, or the last."""
        for _ in range(50):
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            response.close()
            Event().wait(0.2)
        return response


class Orchestration:
    """A Prefect server and a worker of the test's own, below one folder, and what a user types."""

    def __init__(self, place: Path, api: httpx.Client) -> None:
        self.settings = Settings(home=place / ".okruh")
        self.user_home = place / "user"
        """HOME, in which nothing is to be left."""
        self._logs = place / "logs"
        self._api = api
        self._processes: list[subprocess.Popen[bytes]] = []
        temporary = self.settings.home / "tmp"
        for folder in (self.user_home, self._logs, temporary):
            folder.mkdir(parents=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OKRUH_", "PREFECT_"))}
        own = {
            "HOME": str(self.user_home),
            "TMPDIR": str(temporary),
            "PREFECT_API_URL": str(api.base_url).rstrip("/"),
            "PREFECT_HOME": str(self.settings.home / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",  # a minute passes else before a new schedule is seen
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
        }
        self._environment = inherited | self.settings.environment() | own

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve, deploy and work while the block runs."""
        address = ("--host", self._api.base_url.host, "--port", str(self._api.base_url.port))
        with ExitStack() as started:
            started.enter_context(self._started("server", "start", *address))
            self.wait_until(self._is_up)
            self._api.post("/work_pools/", json={"name": "cpu", "type": "process"}).raise_for_status()
            self.prefect("deploy", "--all")
            started.enter_context(self._started("worker", "start", "--pool", "cpu"))
            yield

    def prefect(self, *arguments: str) -> None:
        """Type one of Prefect's commands in the checkout."""
        self.python("-m", "prefect", "--no-prompt", *arguments)

    def python(self, *arguments: str) -> None:
        """Run Python in the checkout."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=bentos.SOURCES,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @contextmanager
    def scheduled(self, flow: str, every_s: float) -> Iterator[None]:
        """Have a deployment run again and again during the block."""
        deployment = self._api.get(f"/deployments/name/{flow}/{MODEL}").raise_for_status().json()["id"]
        wanted = [{"active": True, "schedule": {"interval": every_s}}]
        path = f"/deployments/{deployment}/schedules"
        made = self._api.post(path, json=wanted).raise_for_status().json()
        yield
        for one in made:
            self._api.delete(f"{path}/{one['id']}").raise_for_status()

    def find(self, kind: str, **wanted: Any) -> list[dict[str, Any]]:
        """Ask the server for its flows, deployments, automations or flow runs."""
        answer = self._api.post(f"/{kind}/filter", json=wanted)
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found

    @contextmanager
    def pool_paused(self) -> Iterator[None]:
        """Let runs queue up during the block, and the worker find them all at once after it."""
        self._api.patch("/work_pools/cpu", json={"is_paused": True}).raise_for_status()
        yield
        self._api.patch("/work_pools/cpu", json={"is_paused": False}).raise_for_status()

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Give a flow's runs that were due."""
        due = {"expected_start_time": {"before_": datetime.now(UTC).isoformat()}}
        return self.find("flow_runs", flows={"name": {"any_": [flow]}}, flow_runs=due)

    def ends(self, flow: str) -> list[str]:
        """Give how a flow's runs have ended; one that went wrong fails the test."""
        states = [run["state"] for run in self.runs(flow) if run["state"]]
        assert [state["message"] for state in states if state["type"] in {"FAILED", "CRASHED"}] == []
        return sorted(state["type"] for state in states if state["type"] in {"COMPLETED", "CANCELLED"})

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Look again and again until something has happened; what the processes said goes with a failure."""
        deadline = monotonic() + WITHIN_S
        while not happened():
            alive = all(process.poll() is None for process in self._processes)
            assert alive, self._said()
            assert monotonic() < deadline, self._said()
            Event().wait(0.2)

    def _said(self) -> str:
        return "\n".join(log.read_text()[-4000:] for log in self._logs.iterdir())

    def _is_up(self) -> bool:
        with suppress(httpx.TransportError):
            return self._api.get("/health").is_success
        return False

    @contextmanager
    def _started(self, *arguments: str) -> Iterator[None]:
        """Have one of Prefect's lasting commands run during the block."""
        with (self._logs / f"{arguments[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=bentos.SOURCES,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guard = Guard.of_group(process.pid)
        self._processes.append(process)
        try:
            yield
        finally:
            end(process)
            guard.release()
            self._processes.remove(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started: a worker's runs are no members of its group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    left = descendants(process.pid) if process.returncode is None else []
    for kill, number in ((os.killpg, process.pid), *((os.kill, pid) for pid in left)):
        with suppress(ProcessLookupError):
            kill(number, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """Name the processes below one."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [(int(child), int(parent)) for child, parent in (line.split() for line in listed.splitlines())]
    children = [child for child, parent in parents if parent == pid]
    return [*children, *(found for child in children for found in descendants(child))]


def register_champion(settings: Settings, bundle: Bundle) -> None:
    """Give the model a champion that serves since now, so that none of its windows has ended."""
    loss = LossProfile(rows=100, mean=1.0, scaled_mean=0.1, scaled_deviation=0.1)
    watched = msgspec.structs.replace(bundle, profile=profile.encode(Profile(columns={}, loss=loss)))
    version = bundle.card.version
    with transaction(assemble(settings).lake(MODEL), "main", f"promote {version}", {}) as work:
        for name, content in watched.files().items():
            work.put(f"{bundle_folder(version)}/{name}", content)
        work.put(rollout.PATH, rollout.encode(Rollout(champion=version, since=datetime.now(UTC))))


@pytest.fixture
def orchestration(tmp_path: Path, make_bundle: BundleMaker) -> Iterator[Orchestration]:
    """A champion, and everything deployed and at work; nothing is left in the user's home."""
    address = f"http://127.0.0.1:{free_port()}/api"
    with httpx.Client(base_url=address, timeout=WITHIN_S, transport=Patient()) as api:
        made = Orchestration(tmp_path, api)
        register_champion(made.settings, make_bundle())
        with made.running():
            yield made
    assert list(made.user_home.iterdir()) == []


def test_deployed_flows_run_on_schedule_and_on_an_alarm(orchestration: Orchestration) -> None:
    deploys_each_flow_once(orchestration)
    monitors_on_a_schedule(orchestration)
    retrains_once_for_two_alarms(orchestration)


def deploys_each_flow_once(orchestration: Orchestration) -> None:
    orchestration.prefect("deploy", "--all")  # again

    names = {flow["id"]: flow["name"] for flow in orchestration.find("flows")}
    deployed = {names[one["flow_id"]]: one for one in orchestration.find("deployments")}
    crons = {name: [each["schedule"]["cron"] for each in one["schedules"]] for name, one in deployed.items()}
    [automation] = orchestration.find("automations")
    assert set(deployed) == {"ingest", "train", "promote", "build", "monitor", "retrain", "rollback", "rollout"}
    assert all(one["parameters"] == {"model": MODEL} for one in deployed.values())
    assert {name: cron for name, cron in crons.items() if cron} == {"ingest": ["0 4 * * *"], "monitor": ["0 * * * *"]}
    assert automation["name"] == f"retrain {MODEL} on its alarm"
    assert [action["deployment_id"] for action in automation["actions"]] == [deployed["retrain"]["id"]]


def monitors_on_a_schedule(orchestration: Orchestration) -> None:
    with orchestration.scheduled("monitor", every_s=10):
        orchestration.wait_until(lambda: "COMPLETED" in orchestration.ends("monitor"))

    assert all(run["auto_scheduled"] for run in orchestration.runs("monitor"))
    assert orchestration.runs("retrain") == []


def retrains_once_for_two_alarms(orchestration: Orchestration) -> None:
    with orchestration.pool_paused():
        orchestration.python("-c", EMIT_TWICE)
        orchestration.wait_until(lambda: len(orchestration.runs("retrain")) == 2)
    orchestration.wait_until(lambda: len(orchestration.ends("retrain")) == 2)

    assert orchestration.ends("retrain") == ["CANCELLED", "COMPLETED"]
    assert {run["created_by"]["type"] for run in orchestration.runs("retrain")} == {"AUTOMATION"}
