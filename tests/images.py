"""A tiny model of images, for tests of what serves and records: it answers the sum of an image and a weight."""

import hashlib

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.contract.columns import Contract, Image, Number

CONTRACT = Contract(
    features=(
        Image(name="image", height=2, width=3, maximum=16, unit="dots", description="what was seen"),
        Number(name="weight", unit="kg", minimum=0, maximum=50, nullable=True),
    ),
    target=Number(name="minutes", unit="min", minimum=0, maximum=1000),
)
IMAGE = [[1, 2, 3], [4, 5, 16]]
"""Its sum is 31."""


def image_bundle(like: Bundle, contract: Contract = CONTRACT) -> Bundle:
    """Make a bundle with the card of another one, but for what it is asked."""
    content = _graph(contract)
    card = msgspec.structs.replace(like.card, contract=contract, onnx_digest=hashlib.sha256(content).hexdigest())
    return Bundle(card=card, onnx=content, profile=b"{}", state=b"state")


def _graph(contract: Contract) -> bytes:
    assert contract.image is not None
    nodes = [
        helper.make_node("ReduceSum", ["image", "axes"], ["sum"], keepdims=0),
        helper.make_node("IsNaN", ["weight"], ["is_null"]),
        helper.make_node("Where", ["is_null", "zero", "weight"], ["known_weight"]),
        helper.make_node("Add", ["sum", "known_weight"], ["value"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    shapes: dict[str, list[str | int | None]] = {"image": ["N", *contract.image.shape], "weight": ["N"]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(nodes, "sums", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
