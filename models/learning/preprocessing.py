"""The part of the graph that turns raw columns into what a network learns from, made from the contract alone.

Training runs this graph to make its arrays and export puts it in front of the network, so that the two cannot differ.
It has no learned values: categories become their 1-based place in the contract (0: null), numbers stay as they are
(NaN: null), times become integer parts, exact for every second of the proleptic Gregorian calendar after year 0 (days
to month and day: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days). Of an image the
channels come first, as convolutions take it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.contract.columns import Category, Contract, Image, Input, Number, TimePart
from models.contract.images import kept_as
from models.inference import GraphInputs, Opened, open_session

OPSET = 20
ML_OPSET = 4
IR_VERSION = 10

NUMBERS, CATEGORIES, TIME_PARTS, IMAGES = "numbers", "categories", "time_parts", "images"
PREFIX = "prepared/"
"""How the graph's own names begin; no column's name holds a `/`."""

_PIECE_ROWS = 1 << 16
"""Rows whose codes are held in 64 bits at once, as the graph gives them."""
_PIECE_NUMBERS = 1 << 22
"""And numbers of images in 32 bits."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a network learns from. N rows, F numbers, C categories, P time parts."""

    numbers_NF: npt.NDArray[np.float32]
    categories_NC: npt.NDArray[np.integer]
    time_parts_NP: npt.NDArray[np.integer]
    images_NKHW: npt.NDArray[np.uint8] | npt.NDArray[np.float32] | None = None
    """K channels, height, width, in a byte a number where they are whole; None where the contract has none."""

    def __len__(self) -> int:
        return len(self.numbers_NF)

    def __getitem__(self, rows: slice | list[int]) -> "Prepared":
        return Prepared(*(array[rows] for array in self.arrays()))

    def arrays(self) -> list[npt.NDArray[Any]]:
        """Give those that there are, in the order of a network's arguments."""
        arrays: list[npt.NDArray[Any]] = [self.numbers_NF, self.categories_NC, self.time_parts_NP]
        return arrays if self.images_NKHW is None else [*arrays, self.images_NKHW]


def prepare(contract: Contract, columns: GraphInputs) -> Prepared:
    """Run the preprocessing graph over raw columns, a piece at a time; codes are kept as small as they can be."""
    session, image = _opened(contract).session, contract.image
    outputs = [PREFIX + name for name in arguments(contract)]
    most = max((len(column.values) for column in contract.categories), default=0)
    rows = len(next(iter(columns.values())))
    prepared = Prepared(
        np.empty((rows, len(contract.numbers)), np.float32),
        np.empty((rows, len(contract.categories)), smallest_integer(most)),
        np.empty((rows, len(contract.time_parts)), np.int16),  # the largest is a minute of a day
        None if image is None else _room(image, rows),
    )
    step = _PIECE_ROWS if image is None else min(_PIECE_ROWS, max(1, _PIECE_NUMBERS // image.size))
    for start in range(0, rows, step):
        piece = slice(start, start + step)
        given = {name: values[piece] for name, values in columns.items()}
        if image is not None:
            given[image.name] = given[image.name].astype(np.float32, copy=False)
        for array, found in zip(prepared.arrays(), session.run(outputs, given), strict=True):
            array[piece] = found
    return prepared


def _room(image: Image, rows: int) -> npt.NDArray[Any]:
    height, width, channels = image.shape
    return np.empty((rows, channels, height, width), kept_as(image))


def arguments(contract: Contract) -> list[str]:
    """Name what a network is given."""
    return [NUMBERS, CATEGORIES, TIME_PARTS, *([IMAGES] if contract.image else [])]


def smallest_integer(largest: int) -> type[np.int16 | np.int32]:
    """Choose what codes up to `largest` are kept in."""
    return np.int16 if largest <= np.iinfo(np.int16).max else np.int32


@lru_cache(maxsize=4)
def _opened(contract: Contract) -> Opened:
    return open_session(build(contract).SerializeToString())


def build(contract: Contract) -> onnx.ModelProto:
    """Build the preprocessing graph: one input a column, three outputs or four (see `Prepared`)."""
    graph = _Graph()
    graph.inputs = [
        helper.make_tensor_value_info(column.name, _element_type(column), ["N", *_row_shape(column)])
        for column in contract.inputs
    ]
    first = contract.inputs[0].name
    graph.stack([column.name for column in contract.numbers], NUMBERS, TensorProto.FLOAT, first)
    looked_up = [graph.look_up(column) for column in contract.categories]
    graph.stack(looked_up, CATEGORIES, TensorProto.INT64, first)
    parts = [_Calendar(graph, contract.time.name)] if contract.time else []
    told = [calendar.of(part) for calendar in parts for part in contract.time_parts]
    graph.stack(told, TIME_PARTS, TensorProto.INT64, first)
    if contract.image:
        graph.channels_first(contract.image)
    return graph.model()


def _row_shape(column: Input) -> tuple[int, ...]:
    return column.shape if isinstance(column, Image) else ()


def _element_type(column: Input) -> int:
    if isinstance(column, Number | Image):
        return int(TensorProto.FLOAT)
    if isinstance(column, Category) and column.is_text:
        return int(TensorProto.STRING)
    return int(TensorProto.INT64)


class _Graph:
    """Collects nodes; every method gives the name of its result."""

    def __init__(self) -> None:
        self.inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def call(self, operator: str, *arguments: str, output: str | None = None, **attributes: Any) -> str:
        """Add one node."""
        result = output or f"{PREFIX}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(arguments), [result], **attributes))
        return result

    def constant(self, value: Sequence[int] | int) -> str:
        """Name an int64 constant."""
        name = f"{PREFIX}constant_{value}"
        self._constants[name] = numpy_helper.from_array(np.asarray(value, np.int64), name)
        return name

    def look_up(self, column: Category) -> str:
        """Turn values into their 1-based place; anything else (null) is 0."""
        places = list(range(1, len(column.values) + 1))
        keys: dict[str, Any] = {"keys_strings" if column.is_text else "keys_int64s": list(column.values)}
        return self.call(
            "LabelEncoder", column.name, domain="ai.onnx.ml", values_int64s=places, default_int64=0, **keys
        )

    def stack(self, names: Sequence[str], output: str, element_type: int, rows_of: str) -> None:
        """Make [N] vectors the columns of one [N, len(names)] output."""
        output = PREFIX + output
        if names:
            columns = [self.call("Unsqueeze", name, self.constant([1])) for name in names]
            self.call("Concat", *columns, output=output, axis=1)
        else:
            rows = self.call("Shape", rows_of, end=1) if self._has_more(rows_of) else self.call("Shape", rows_of)
            shape = self.call("Concat", rows, self.constant([0]), axis=0)
            nothing = helper.make_tensor("nothing", element_type, [1], [0])
            self.call("ConstantOfShape", shape, output=output, value=nothing)
        self._outputs.append(helper.make_tensor_value_info(output, element_type, ["N", len(names)]))

    def _has_more(self, name: str) -> bool:
        """Say whether a row of an input is more than one value."""
        return any(len(one.type.tensor_type.shape.dim) > 1 for one in self.inputs if one.name == name)

    def channels_first(self, image: Image) -> None:
        """Make an image [N, channels, height, width]."""
        height, width, channels = image.shape
        output = self.call("Transpose", image.name, output=PREFIX + IMAGES, perm=[0, 3, 1, 2])
        shape: list[str | int | None] = ["N", channels, height, width]
        self._outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))

    def model(self) -> onnx.ModelProto:
        """Give the finished, checked graph."""
        graph = helper.make_graph(
            self._nodes, "preprocessing", self.inputs, self._outputs, list(self._constants.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
            ir_version=IR_VERSION,
            producer_name="okruh",
        )
        onnx.checker.check_model(model)
        return model


class _Calendar:
    """Integer parts of a time in seconds; each step is computed once."""

    def __init__(self, graph: _Graph, seconds: str) -> None:
        self._graph = graph
        self._seconds = seconds
        self._known: dict[str, str] = {}

    def of(self, part: TimePart) -> str:
        """Give the name of the [N] vector that holds a part."""
        if part not in self._known:
            self._known[part] = getattr(self, f"_{part}")()
        return self._known[part]

    def _minute_of_day(self) -> str:
        return self._modulo(self._quotient(self._seconds, 60), 1440)

    def _hour(self) -> str:
        return self._modulo(self._quotient(self._seconds, 3600), 24)

    def _weekday(self) -> str:
        return self._modulo(self._plus(self._days(), 3), 7)

    def _month(self) -> str:
        from_march = self._quotient(self._plus(self._times(self._day_from_march(), 5), 2), 153)
        return self._plus(self._modulo(self._plus(from_march, 2), 12), 1)

    def _day_of_year(self) -> str:
        day = self._day_from_march()
        before_january = self._graph.call("Less", day, self._graph.constant(306))
        in_spring = self._add(self._plus(day, 60), self._leap_day())
        return self._graph.call("Where", before_january, in_spring, self._plus(day, -305))

    def _days(self) -> str:
        return self._once("days", lambda: self._quotient(self._seconds, 86_400))

    def _day_of_era(self) -> str:
        """Day within the 400 years that began on a 1 March."""
        return self._once("day_of_era", lambda: self._modulo(self._plus(self._days(), 719_468), 146_097))

    def _year_of_era(self) -> str:
        def compute() -> str:
            day = self._day_of_era()
            years = self._subtract(day, self._quotient(day, 1_460))
            years = self._add(years, self._quotient(day, 36_524))
            return self._quotient(self._subtract(years, self._quotient(day, 146_096)), 365)

        return self._once("year_of_era", compute)

    def _day_from_march(self) -> str:
        def compute() -> str:
            year = self._year_of_era()
            start = self._add(self._times(year, 365), self._quotient(year, 4))
            return self._subtract(self._day_of_era(), self._subtract(start, self._quotient(year, 100)))

        return self._once("day_from_march", compute)

    def _leap_day(self) -> str:
        """1 where the year (of a day from March to December) has a 29 February."""
        year = self._year_of_era()
        graph = self._graph
        by_4, by_100, by_400 = (graph.call("Equal", self._modulo(year, n), graph.constant(0)) for n in (4, 100, 400))
        leap = graph.call("Or", by_400, graph.call("And", by_4, graph.call("Not", by_100)))
        return graph.call("Cast", leap, to=TensorProto.INT64)

    def _once(self, name: str, compute: Callable[[], str]) -> str:
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def _quotient(self, name: str, divisor: int) -> str:
        """Floor, unlike ONNX's Div, which truncates: exact for times before 1970 too."""
        whole = self._graph.call("Sub", name, self._modulo(name, divisor))
        return self._graph.call("Div", whole, self._graph.constant(divisor))

    def _modulo(self, name: str, divisor: int) -> str:
        return self._graph.call("Mod", name, self._graph.constant(divisor))

    def _plus(self, name: str, constant: int) -> str:
        return self._graph.call("Add", name, self._graph.constant(constant))

    def _times(self, name: str, constant: int) -> str:
        return self._graph.call("Mul", name, self._graph.constant(constant))

    def _add(self, left: str, right: str) -> str:
        return self._graph.call("Add", left, right)

    def _subtract(self, left: str, right: str) -> str:
        return self._graph.call("Sub", left, right)
