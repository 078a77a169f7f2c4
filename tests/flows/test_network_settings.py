"""Network settings that were changed go wherever their version goes: records, the tracker, retraining."""

from pathlib import Path

from safetensors.torch import load

from flows.retrain import retrain
from flows.runs import Line, changes, runs
from flows.train import train
from infra import registry
from models.catalog.taxi_eta import MODEL
from models.learning.settings import Setting
from models.setting_names import together
from tests.flows.conftest import AS_OF, EPOCHS, THIRD_MONDAY, enthrone, lake
from tests.flows.test_retrain import raise_alarm

NARROW = {"width": 48}


def width(version: str) -> int:
    """Count the cells of each head's hidden layer."""
    return int(load(registry.load_bundle(lake(), "main", version).state)["weight"].shape[1])


def test_a_changed_network_is_recorded_and_another_training(trained: Path) -> None:
    made = train("taxi_eta", AS_OF, overrides=EPOCHS, network=NARROW)
    again = train("taxi_eta", AS_OF, overrides=EPOCHS, network=NARROW)

    card = registry.load_card(lake(), "main", made.version)
    assert (made.cached, again.cached, again.version) == (False, True, made.version)
    assert (width(made.version), card.network_settings) == (48, {**MODEL.network_settings, **NARROW})
    (line,) = runs("taxi_eta", [made.version]).runs
    assert line.settings == together(card.settings, card.network_settings)
    assert changes(line) == "epochs=2 network.width=48"
    assert b"network.width" in lake().get("main", f"bundles/{made.version}/card.html")


def test_a_tracker_is_told_of_the_network(trained: Path) -> None:
    line: Line = runs("taxi_eta").runs[0]

    (recorded,) = (trained / "wandb").glob(f"wandb/offline-run-*/run-{line.id}.wandb")
    assert b"network.zone_size" in recorded.read_bytes()


def test_a_champion_is_trained_on_as_the_network_that_it_is_and_by_its_own_settings(trained: Path) -> None:
    own: dict[str, Setting] = {"loss": "squared", "clip_norm": 1.0, "memory_mb": 30.0, "seed": 3}
    version = train("taxi_eta", AS_OF, overrides={**EPOCHS, **own}, network=NARROW).version
    enthrone(version, AS_OF)
    raise_alarm()

    done = retrain("taxi_eta", THIRD_MONDAY)

    assert done.trained is not None
    card = registry.load_card(lake(), "main", done.trained.version)
    assert (card.warm_start, card.network_settings["width"], width(card.version)) == (version, 48, 48)
    assert card.settings == MODEL.training.with_changes({**own, **MODEL.retraining.training}).flat()
    (line,) = runs("taxi_eta", [card.version]).runs
    assert changes(line) == "clip_norm=1 loss=squared seed=3 memory_mb=30 network.width=48"
