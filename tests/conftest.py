"""What several test folders share: a tiny real model, settings of a temporary home, lakeFS servers of ours."""

import hashlib
import ipaddress
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from infra.serving_process import Certificate
from infra.settings import Settings
from models.bundle import Bundle, Card, DataReference, Origin, Parity, Variant
from models.contract.answers import mean_loss
from models.contract.columns import Category, Contract, Number, Time, TimePart
from tests.infra.lake.lakefs.document import Documented
from tests.infra.lake.lakefs.server import LakeFSServer, running

BundleMaker = Callable[..., Bundle]


@pytest.fixture(scope="session")
def tiny_contract() -> Contract:
    """Two numbers, a text and an integer category, a local time."""
    return Contract(
        time=Time(name="starts_at", zone="America/New_York", parts=(TimePart.HOUR,)),
        features=(
            Number(name="distance", unit="km", minimum=0, maximum=100),
            Number(name="weight", unit="kg", minimum=0, maximum=50, nullable=True),
            Category(name="kind", values=("bike", "car")),
            Category(name="zone", values=(1, 2, 3), nullable=True),
        ),
        target=Number(name="minutes", unit="min", minimum=0, maximum=1000),
    )


@pytest.fixture(scope="session")
def make_bundle(tiny_contract: Contract) -> BundleMaker:
    """Make bundles of `tiny_contract` whose graph gives `factor` x distance + weight (0 for null) + 10 for a car.

    Where the distance is above `most`, it gives no number.
    """

    def make(
        version: str = "v1", factor: float = 2.0, contract: Contract = tiny_contract, most: float | None = None
    ) -> Bundle:
        content = _graph(factor, most)
        return Bundle(card=_card(version, contract, content), onnx=content, profile=b"{}", state=b"state")

    return make


@pytest.fixture(scope="session")
def classifying_contract(tiny_contract: Contract) -> Contract:
    """`tiny_contract` with three values to tell apart."""
    return replace(tiny_contract, target=Category(name="pace", values=("slow", "fair", "fast")))


@pytest.fixture(scope="session")
def make_classifier(classifying_contract: Contract) -> BundleMaker:
    """Make bundles of `classifying_contract`: with what `make_bundle`'s graph gives as x, softmax(0.1x, 0.05x, 0)."""

    def make(version: str = "v1", factor: float = 2.0, most: float | None = None) -> Bundle:
        content = _classifying(_graph(factor, most))
        return Bundle(card=_card(version, classifying_contract, content), onnx=content, profile=b"{}", state=b"state")

    return make


def with_int8(bundle: Bundle, graph: bytes) -> Bundle:
    """Give a bundle another graph as its int8 variant."""
    variant = Variant(name="int8", digest=hashlib.sha256(graph).hexdigest(), bytes=len(graph))
    return replace(bundle, card=replace(bundle.card, variants=(variant,)), variants={"int8": graph})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh home, for the model `tiny`."""
    return Settings(home=tmp_path / ".okruh", model="tiny", rollout_poll_s=0.05)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of 127.0.0.1, signed by itself."""
    folder = tmp_path_factory.mktemp("certificate")
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Certificate(folder / "cert.pem", folder / "key.pem")


@pytest.fixture(scope="session")
def lakefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakeFSServer]:
    """A lakeFS server of ours through which all content goes."""
    yield from _serving(LakeFSServer(tmp_path_factory.mktemp("lakefs")))


@pytest.fixture(scope="session")
def signing_lakefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakeFSServer]:
    """A lakeFS server of ours that signs URLs of its object store."""
    server = LakeFSServer(tmp_path_factory.mktemp("lakefs"))
    server.presign = server.multipart = True
    yield from _serving(server)


def _serving(server: LakeFSServer) -> Iterator[LakeFSServer]:
    documented = Documented(server.app)
    with closing(server), running(documented) as server.address:
        yield server
    assert documented.problems == []


def _graph(factor: float, most: float | None) -> bytes:
    kinds = {
        "starts_at": TensorProto.INT64,
        "distance": TensorProto.FLOAT,
        "weight": TensorProto.FLOAT,
        "kind": TensorProto.STRING,
        "zone": TensorProto.INT64,
    }
    nodes = [
        helper.make_node("Mul", ["distance", "factor"], ["scaled"]),
        helper.make_node("IsNaN", ["weight"], ["is_null"]),
        helper.make_node("Where", ["is_null", "zero", "weight"], ["known_weight"]),
        helper.make_node(
            "LabelEncoder",
            ["kind"],
            ["extra"],
            domain="ai.onnx.ml",
            keys_strings=["bike", "car"],
            values_floats=[0.0, 10.0],
        ),
        helper.make_node("Add", ["scaled", "known_weight"], ["sum"]),
        helper.make_node("Add", ["sum", "extra"], ["value" if most is None else "whole"]),
    ]
    if most is not None:
        nodes += [
            helper.make_node("Sub", ["most", "distance"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["root"]),  # no number below zero
            helper.make_node("Mul", ["root", "zero"], ["nothing"]),
            helper.make_node("Add", ["whole", "nothing"], ["value"]),
        ]
    constants = [
        numpy_helper.from_array(np.array(factor, dtype=np.float32), "factor"),
        numpy_helper.from_array(np.array(most or 0, dtype=np.float32), "most"),
        numpy_helper.from_array(np.array(0, dtype=np.float32), "zero"),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, ["N"]) for name, kind in kinds.items()]
    output = helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _classifying(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("Unsqueeze", ["value", "last"], ["column"]),
            helper.make_node("Mul", ["column", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
    )
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1], dtype=np.int64), "last"),
            numpy_helper.from_array(np.array([[0.1, 0.05, 0.0]], dtype=np.float32), "weights"),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _card(version: str, contract: Contract, content: bytes) -> Card:
    at = datetime(2020, 1, 1, tzinfo=UTC)
    return Card(
        model="tiny",
        version=version,
        contract=contract,
        as_of=at,
        created_at=at,
        seed=0,
        settings={},
        warm_start=None,
        data=DataReference(
            commit="c",
            paths=(),
            rows_train=1,
            rows_validation=1,
            rows_test=1,
            learn_from=None,
            validation_from=at,
            test_from=at,
        ),
        origin=Origin(code_commit="unknown", source_digest="s", environment_digest="e", flow_run="f", tracker_run="t"),
        metrics={mean_loss(contract.target): 1.5},
        slices={},
        parity=Parity(rows=1, batch_sizes=(1,), largest_difference=0.0, tolerance=1e-4),
        onnx_digest=hashlib.sha256(content).hexdigest(),
    )
