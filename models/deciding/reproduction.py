"""Is a bundle that was trained again the one that there was, and if not, where does it first differ?

Bytes that are the same are not looked into. Of others, tensors are compared by name and figures one by one; how much
one differs is a share of its size, which of a tensor is its Euclidean norm. A part is `equal` where no share is above
the tolerance, and `different` where one is, or where something differs that has no size: a name, a shape, a node, a
whole number of a lookup table.

Costs a pass over both bundles' tensors.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, helper, numpy_helper
from safetensors import deserialize

from models.bundle import Bundle, Card, DataReference
from models.figures import Evaluation

Likeness = Literal["identical", "equal", "different"]
"""The same bytes; not above the tolerance; neither."""

TOLERANCE = 0.01
"""Share that a difference may have at most where nothing else is said: other instructions of a processor change last
digits, which in some hundred steps grew to between 1e-6 and 4e-3 of the weights of `taxi_eta`, and to a hundredth of
those of `digits`; another seed's weights differ by more than half."""

_RISING: tuple[Likeness, ...] = ("identical", "equal", "different")
_SHOWN = 60

S = TypeVar("S")
Array: TypeAlias = npt.NDArray[Any]
Item: TypeAlias = "Array | float | str"
"""A tensor, a figure, or what has no size."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not what it was."""

    what: str
    """Which tensor, node or figure."""
    then: str
    """What it was; of a tensor the element that differs most, and its place."""
    now: str
    share: float | None
    """How large it is, measured by what it was or is, the larger of both; None where it has no size."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """How one part of a bundle compares."""

    name: str
    likeness: Likeness
    compared: int
    """Tensors, nodes or figures that it has."""
    differing: int
    """How many of them differ."""
    first: Difference | None
    largest_share: float | None
    """Of all differences; None where there is none, or one that has no size."""


def compare(then: Bundle, now: Bundle, tolerance: float = TOLERANCE) -> tuple[Part, ...]:
    """Compare two bundles part by part, causes before effects.

    Args:
        tolerance: share that a difference may have at most.
    """
    return (
        _part("data", _data, then.card.data, now.card.data, tolerance),
        _part("weights", _weights, then.state, now.state, tolerance),
        _part("graph", _graph, then.onnx, now.onnx, tolerance),
        *(_part(name, _graph, one, now.variants.get(name, b""), tolerance) for name, one in then.variants.items()),
        _part("metrics", _metrics, then.card, now.card, tolerance),
        _part("evaluation", _evaluation, *_evaluations(then.card, now.card), tolerance),
        _part("profile", _profile, then.profile, now.profile, tolerance),
    )


def judge(parts: tuple[Part, ...]) -> Likeness:
    """Give the likeness of the whole, which is that of its worst part."""
    return max((part.likeness for part in parts), key=_RISING.index)


def _part(name: str, read: Callable[[S], Mapping[str, Item]], then: S, now: S, tolerance: float) -> Part:
    items = read(then)
    differences = [] if then == now else list(_differences(items, read(now)))
    if isinstance(then, bytes) and isinstance(now, bytes) and then != now and not differences:
        digests = [f"sha256 {hashlib.sha256(one).hexdigest()[:12]}" for one in (then, now)]
        # Such as who wrote it
        differences = [Difference(what="what decides nothing", then=digests[0], now=digests[1], share=0.0)]
    shares = [one.share for one in differences if one.share is not None]
    sized = len(shares) == len(differences)
    likeness: Likeness = "identical"
    if differences:
        likeness = "equal" if sized and max(shares) <= tolerance else "different"
    return Part(
        name=name,
        likeness=likeness,
        compared=len(items),
        differing=len(differences),
        first=differences[0] if differences else None,
        largest_share=max(shares) if differences and sized else None,
    )


def _differences(then: Mapping[str, Item], now: Mapping[str, Item]) -> Iterator[Difference]:
    for name in dict.fromkeys((*then, *now)):
        before, after = then.get(name), now.get(name)
        if before is None or after is None:
            words = [_said(one) if one is not None else "absent" for one in (before, after)]
            yield Difference(what=name, then=words[0], now=words[1], share=None)
        elif isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
            yield from _of_tensors(name, before, after)
        elif isinstance(before, float) and isinstance(after, float):
            yield from _of_figures(name, before, after)
        elif not (isinstance(before, str) and before == after):
            excerpts = _excerpts(_said(before), _said(after))
            yield Difference(what=name, then=excerpts[0], now=excerpts[1], share=None)


def _said(item: Item) -> str:
    if isinstance(item, np.ndarray):
        return f"{item.dtype} of shape {item.shape}"
    return item if isinstance(item, str) else f"{item:.9g}"


def _excerpts(then: str, now: str) -> tuple[str, str]:
    """Cut two texts down to where they part."""
    common = next((at for at, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), min(len(then), len(now)))
    start = max(0, common - _SHOWN // 2) if max(len(then), len(now)) > _SHOWN else 0
    cut = [f"{'...' if start else ''}{one[start : start + _SHOWN]}" for one in (then, now)]
    longer = [len(one) > start + _SHOWN for one in (then, now)]
    first, second = (f"{one}{'...' if more else ''}" for one, more in zip(cut, longer, strict=True))
    return first, second


def _of_figures(name: str, then: float, now: float) -> Iterator[Difference]:
    if then == now or (math.isnan(then) and math.isnan(now)):
        return
    share = abs(now - then) / max(abs(then), abs(now))
    yield Difference(what=name, then=_said(then), now=_said(now), share=share if math.isfinite(share) else None)


def _of_tensors(name: str, then: Array, now: Array) -> Iterator[Difference]:
    if (then.dtype, then.shape) != (now.dtype, now.shape):
        yield Difference(what=name, then=_said(then), now=_said(now), share=None)
    elif then.dtype.kind != "f":
        unlike = np.argwhere(np.asarray(then != now))
        if len(unlike):
            yield _at(name, then, now, tuple(unlike[0]), None)
    elif then.tobytes() != now.tobytes():
        before, after = then.astype(np.float64), now.astype(np.float64)
        alike = (before == after) | (np.isnan(before) & np.isnan(after))
        with np.errstate(invalid="ignore"):  # of infinities
            gap = np.where(alike, 0.0, np.abs(after - before))
        gap = np.where(np.isnan(gap), np.inf, gap)
        place = np.unravel_index(int(np.argmax(gap)), gap.shape)
        finite = np.isfinite(before) & np.isfinite(after)
        size = max(float(np.linalg.norm(one[finite])) for one in (before, after))
        share = float(np.linalg.norm(gap)) / size if size else float(gap[place])
        yield _at(name, then, now, place, share if math.isfinite(share) else None)


def _at(name: str, then: Array, now: Array, place: tuple[Any, ...], share: float | None) -> Difference:
    where = f" at [{', '.join(str(int(one)) for one in place)}]" if place else ""
    words = [f"{one[place]:.9g}" if one.dtype.kind == "f" else str(one[place]) for one in (then, now)]
    return Difference(what=name, then=f"{words[0]}{where}", now=words[1], share=share)


def _data(data: DataReference) -> dict[str, Item]:
    """Give what was read, where any difference is one too many."""
    rows = {"train": data.rows_train, "validation": data.rows_validation, "test": data.rows_test}
    counts: dict[str, Item] = {f"rows to {name} on": f"{count:,}" for name, count in rows.items()}
    return counts | {f"object {path}": "read" for path in data.paths}


def _metrics(card: Card) -> dict[str, Item]:
    return _figures({**card.metrics, "slices": card.slices})


def _evaluations(then: Card, now: Card) -> tuple[Evaluation | None, Evaluation | None]:
    """Give both evaluations, or, where one card is of before it was kept, none."""
    return (then.evaluation, now.evaluation) if then.evaluation and now.evaluation else (None, None)


def _evaluation(found: Evaluation | None) -> dict[str, Item]:
    """Give figures of one sort as one tensor, for some of them are next to nothing, and one's sign means nothing."""
    sorts: dict[str, dict[str, float]] = {}
    items: dict[str, Item] = {}
    for path, item in _walk({} if found is None else msgspec.json.decode(msgspec.json.encode(found)), ""):
        if isinstance(item, float):
            table, *rest = re.sub(r"\[\d+\]", ".", path).split(".")
            sort = f"{table}: {[name for name in rest if name][-1]}" if len(rest) > 1 else table
            sorts.setdefault(sort, {})[path] = item
        else:
            items[path] = item
    for sort, figures in sorts.items():
        items |= {f"{sort}, of": ", ".join(figures), sort: np.array(list(figures.values()))}
    return items


def _profile(content: bytes) -> dict[str, Item]:
    return _figures(msgspec.json.decode(content))


def _figures(value: object) -> dict[str, Item]:
    """Give what a document holds by its path."""
    return dict(_walk(value, ""))


def _walk(value: object, path: str) -> Iterator[tuple[str, Item]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _walk(one, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _walk(one, f"{path}[{place}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
    else:
        yield path, str(value)


_KINDS = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
    "BOOL": "?",
}
"""Numpy's name of a kind by safetensors'; what is missing here is compared as bytes."""


def _weights(state: bytes) -> dict[str, Item]:
    """Give tensors by name, in order: the reader has none of its own."""
    tensors = dict(deserialize(state))  # type: ignore[no-untyped-call]
    return {name: _tensor(one["dtype"], one["shape"], bytes(one["data"])) for name, one in sorted(tensors.items())}


def _tensor(kind: str, shape: list[int], content: bytes) -> Array:
    if kind == "BF16":  # the upper half of a float32, which numpy knows
        return (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    found: Array = np.frombuffer(content, np.dtype(_KINDS.get(kind, "u1")))
    return found.reshape(shape) if kind in _KINDS else found


def _graph(content: bytes) -> dict[str, Item]:
    """Give what is computed: what a graph takes and gives, its constants, its nodes and what they hold."""
    model = onnx.load_from_string(content)
    graph = model.graph
    operators = sorted(f"{one.domain or 'ai.onnx'} {one.version}" for one in model.opset_import)
    items: dict[str, Item] = {"operators": f"{', '.join(operators)}, IR {model.ir_version}"}
    items |= {f"input {one.name}": helper.printable_value_info(one) for one in graph.input}
    items |= {f"output {one.name}": helper.printable_value_info(one) for one in graph.output}
    items |= {f"initializer {one.name}": _constant(one) for one in graph.initializer}
    for place, node in enumerate(graph.node):
        called = ".".join(filter(None, (node.domain, node.op_type)))
        items[f"node {place}"] = f"{', '.join(node.output)} = {called}({', '.join(node.input)})"
        items |= {
            f"node {place}, {called}, attribute {one.name}": _attribute(one)
            for one in sorted(node.attribute, key=lambda one: one.name)
        }
    items |= {f"function {one.domain} {one.name}": str(one) for one in model.functions}
    return items


def _constant(tensor: onnx.TensorProto) -> Array:
    found: Array = np.asarray(numpy_helper.to_array(tensor))
    return found.astype(np.float32) if tensor.data_type == onnx.TensorProto.BFLOAT16 else found


def _attribute(attribute: AttributeProto) -> Item:
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return _constant(value)
    if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        return np.asarray(value, np.float32)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
