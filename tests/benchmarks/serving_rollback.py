"""How long after `okruh rollback` the champion before answers: from the moment that the rollout names."""

import subprocess
import time
from statistics import median
from urllib.request import Request, urlopen

import msgspec

from infra import registry
from infra.assembly import assemble
from infra.lake.transaction import transaction
from infra.settings import Settings
from models.bundle import Bundle, bundle_folder
from models.deciding import rollout
from tests.benchmarks.figures import Figure
from tests.benchmarks.homes import OKRUH, copy_of, environment
from tests.benchmarks.pinned import MODEL, Bench, Served, okruh, until
from tests.benchmarks.serving_rows import write_row

_TAKEN_OVER_S = 10.0


class _Answer(msgspec.Struct):
    version: str


def figures(bench: Bench) -> list[Figure]:
    """Roll back again and again, while one caller asks."""
    home = copy_of(bench, "rollback")
    later = _promote_again(home, bench.champion)
    with okruh("rollback", home, bench.tag, write_row(bench), bench.place) as served:
        until(lambda: _version(served) == later, _TAKEN_OVER_S)
        took_s = [_rollback_s(served, home) for _ in range(bench.rounds)]
    return [
        Figure(
            name="first answer of the champion before, after `okruh rollback`",
            value=median(took_s),
            unit="s",
            bound="<= 1",
            compared_with={"longest": max(took_s), "times": float(len(took_s))},
        )
    ]


def _promote_again(settings: Settings, champion: Bundle) -> str:
    """Make the champion's bundle, under another version, champion after it; give that version."""
    present = registry.read_rollout(assemble(settings).lake(MODEL), "main")
    assert present is not None
    card = msgspec.structs.replace(champion.card, version=f"{champion.card.version}-again")
    later = rollout.Rollout(champion=card.version, since=present.since, previous=present.champion)
    with transaction(assemble(settings).lake(MODEL), "main", f"promote {card.version}", {}) as work:
        for name, content in msgspec.structs.replace(champion, card=card).files().items():
            work.put(f"{bundle_folder(card.version)}/{name}", content)
        work.put(rollout.PATH, rollout.encode(later))
    return card.version


def _rollback_s(served: Served, settings: Settings) -> float:
    before = _version(served)
    with subprocess.Popen([*OKRUH, "rollback", MODEL], env=environment(settings), stdout=subprocess.DEVNULL) as command:
        while _version(served) == before:
            if command.poll() not in (None, 0):
                raise subprocess.CalledProcessError(command.returncode, command.args)
        answered_s = time.time()
    restored = registry.read_rollout(assemble(settings).lake(MODEL), "main")
    assert restored is not None
    return answered_s - restored.since.timestamp()


def _version(served: Served) -> str:
    with urlopen(Request(served.url, served.body.read_bytes(), {"Content-Type": served.kind}), timeout=10) as answer:
        return msgspec.json.decode(answer.read(), type=_Answer).version
