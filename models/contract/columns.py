"""The contract: what a model's columns may hold.

Written once by a data scientist. From it come the table validation, the request decoder, the OpenAPI schema, the ONNX
graph's inputs and the bins of the profile. A contract is data: it travels inside a bundle's card as JSON, so that a
service needs no other definition.
"""

import hashlib
import math
from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Literal

import msgspec

from models.errors import DefinitionError

MISSING_CODE = -(2**63)
"""What stands for null where an integer category is an array."""

_MOST_IN_IMAGE = 1 << 22
"""Numbers of an image: about as many as a request of 16 MiB carries as JSON."""

_MOST_SERIES = 10_000_000
"""That a lag may tell apart: numbered, with seconds of some millennia, they fit 64 bits."""


class Number(msgspec.Struct, frozen=True, kw_only=True, tag="number"):
    """A measured quantity; a 64-bit float in tables and messages, float32 in arrays, NaN for null."""

    name: str
    unit: str
    minimum: float
    maximum: float
    nullable: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        """Keep bounds as floats, so that a contract and its JSON form are equal."""
        msgspec.structs.force_setattr(self, "minimum", float(self.minimum))
        msgspec.structs.force_setattr(self, "maximum", float(self.maximum))


class Lag(Number, frozen=True, kw_only=True, tag="lag"):
    """What a number of the same series was some hours before.

    To whoever asks a model it is a number that may be null, which the caller sends. In tables it is computed from rows
    of the past (`models.contract.lags`), never read: from values alone that were known at the row's own moment.
    """

    nullable: bool = True
    of: str
    """The number: the target, or a feature."""
    hours: float
    """How long before; hours that have passed, whatever clocks were changed meanwhile. To the second."""
    by: tuple[str, ...] = ()
    """Categories among the features whose values tell series apart. Without any, all rows are of one."""
    tolerance_minutes: float = 0.0
    """The value may be so much older, where there is none of that very second; the newest then."""

    @property
    def seconds(self) -> int:
        """How long before."""
        return round(self.hours * 3600)

    @property
    def tolerance_s(self) -> int:
        """How much older a value may be."""
        return round(self.tolerance_minutes * 60)

    @property
    def reach_s(self) -> int:
        """How far back the oldest value lies."""
        return self.seconds + self.tolerance_s

    @property
    def meaning(self) -> str:
        """Say what it is."""
        older = f", or up to {_span(self.tolerance_s)} earlier" if self.tolerance_s else ""
        series = f" of the same {' and '.join(self.by)}" if self.by else ""
        return f"{self.of}{series} {_span(self.seconds)} before{older}"


class Category(msgspec.Struct, frozen=True, kw_only=True, tag="category"):
    """One of a closed list of values, all integers or all strings."""

    name: str
    values: tuple[int | str, ...]
    nullable: bool = False
    description: str = ""

    @property
    def is_text(self) -> bool:
        """Whether the values are strings."""
        return isinstance(self.values[0], str)


class Image(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """Rows of pixels: lists of lists in messages, one flat list in tables, float32 in the graph; never null."""

    name: str
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    channels: int = 1
    """Numbers of a pixel, such as red, green, blue."""
    minimum: float = 0.0
    maximum: float = 255.0
    whole: bool = True
    """Whether all numbers are whole, from 0 to 255 at most, as in files of images: each is kept in a byte. Otherwise in
    four, as a 32-bit float."""
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        """Keep bounds as floats, so that a contract and its JSON form are equal."""
        msgspec.structs.force_setattr(self, "minimum", float(self.minimum))
        msgspec.structs.force_setattr(self, "maximum", float(self.maximum))

    @property
    def nullable(self) -> bool:
        """Never."""
        return False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels

    @property
    def lists(self) -> tuple[int, ...]:
        """How long a message's lists within lists are, the outermost first; a single channel has no list of its own."""
        return self.shape if self.channels > 1 else self.shape[:2]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)


Task = Literal["regression", "binary", "multiclass"]
"""What may be asked of a target."""


class TimePart(StrEnum):
    """What a network may be told of a time column."""

    MINUTE_OF_DAY = "minute_of_day"
    HOUR = "hour"
    WEEKDAY = "weekday"
    """Monday is 0."""
    MONTH = "month"
    """January is 1."""
    DAY_OF_YEAR = "day_of_year"
    """1 January is 1."""


class Time(msgspec.Struct, frozen=True, kw_only=True, tag="time"):
    """The moment a row is about, to the second; int64 seconds since 1970 in arrays, of the wall clock it names."""

    name: str
    zone: str | None
    """IANA name: naive wall time of that zone (JSON `2020-03-01T08:15:00`). None: an instant (aware, UTC)."""
    parts: tuple[TimePart, ...]
    description: str = ""


Feature = Number | Lag | Category | Image
"""What a request carries beside the time."""

Input = Time | Feature
"""What a request carries."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Groups of rows whose error is reported one by one."""

    column: str
    """An input. A category gives a group for each value, or for each of its most frequent ones."""
    part: TimePart | None = None
    """Which part of a time."""
    edges: tuple[float, ...] = ()
    """Where a number or a part of a time is cut, an edge belonging to what is above it. None: a number at the quartiles
    of the rows, a part of a time nowhere: each of its values is a group."""

    def __post_init__(self) -> None:
        """Keep edges as floats, so that a contract and its JSON form are equal."""
        msgspec.structs.force_setattr(self, "edges", tuple(map(float, self.edges)))

    @property
    def name(self) -> str:
        """What the groups are called together."""
        return self.column if self.part is None else self.part.value


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a model and what a table of them must keep."""

    time: Time | None = None
    """Orders rows and cuts windows. None: rows are about no moment but that of their ingestion or answer, and are held
    out by what they hold."""
    features: tuple[Feature, ...]
    """What a request carries beside `time`, in the graph's input order."""
    target: Number | Category
    """What is predicted; arrives later as a label. A number is estimated, of a category each value's probability."""
    known: str | None = None
    """Table column with the moment at which the target became known, in `time`'s clock. None: at `time` itself."""
    checks: tuple[Number | Category, ...] = ()
    """Columns that only tables have: validated at ingest, never asked of a request, not learned from."""
    unique: tuple[str, ...] = ()
    """Columns whose joint value may stand in a table once: in a partition, and where these are files with a time, in
    all partitions of which the times overlap."""
    partition: Literal["month", "file"] = "month"
    """What a partition of a table is: the rows of a calendar month, which is all that a raw file may hold, or those of
    a raw file, by whose name it is called. Without a time always the latter."""
    minimum_rows: int = 1
    """Fewer accepted rows than this refuse a table."""
    maximum_refused: float = 0.2
    """A larger share of refused rows than this refuses a table."""
    maximum_gap_days: float | None = None
    """Freshness: the newest row of a table may lie at most this long before the end of its month. None: any."""
    slices: tuple[Slice, ...] | None = None
    """Groups whose error is reported one by one. None: the values of each category that has few."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant. Raises: `DefinitionError`."""
        names = [column.name for column in (*self.inputs, *self.checks, self.target)]
        names += [self.known] if self.known else []
        if repeated := {name for name in names if names.count(name) > 1}:
            raise DefinitionError(f"contract: columns {sorted(repeated)} are declared more than once")
        if odd := [name for name in names if not name or "/" in name]:
            raise DefinitionError(f"contract: columns {odd} need names, and names without a `/`")
        if unknown := set(self.unique) - set(names):
            raise DefinitionError(f"contract: unique names {sorted(unknown)}, which are no columns of it")
        if self.time is None and self.known:
            raise DefinitionError("contract: `known` needs a time column")
        if not self.is_monthly and self.maximum_gap_days is not None:
            raise DefinitionError("contract: maximum_gap_days needs partitions of months, and a time column")
        if not self.inputs:
            raise DefinitionError("contract: there is no feature to predict from")
        _check_images(self)
        _check_target(self.target)
        for column in (*self.features, *self.checks, self.target):
            if isinstance(column, Category):
                _check_values(column)
            elif not column.minimum < column.maximum:
                raise DefinitionError(f"contract: {column.name!r} needs minimum < maximum")
        _check_lags(self)
        _check_slices(self)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What a request carries, in the graph's input order."""
        return (*([self.time] if self.time else []), *self.features)

    @property
    def time_column(self) -> Time:
        """What orders rows. Raises: `DefinitionError` where nothing does."""
        if self.time is None:
            raise DefinitionError("contract: there is no time column, without which this cannot be done")
        return self.time

    @property
    def is_monthly(self) -> bool:
        """Whether partitions are calendar months."""
        return self.time is not None and self.partition == "month"

    @property
    def zone(self) -> str | None:
        """The zone of the wall clock that times are of; None for UTC."""
        return self.time.zone if self.time else None

    @property
    def time_parts(self) -> tuple[TimePart, ...]:
        """What a network is told of the time."""
        return self.time.parts if self.time else ()

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The measured features, in order."""
        return tuple(column for column in self.features if isinstance(column, Number))

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categorical features, in order."""
        return tuple(column for column in self.features if isinstance(column, Category))

    @property
    def image(self) -> Image | None:
        """The feature that is an image."""
        return next((column for column in self.features if isinstance(column, Image)), None)

    @property
    def lags(self) -> tuple[Lag, ...]:
        """The features that tables compute, in order."""
        return tuple(column for column in self.features if isinstance(column, Lag))

    @property
    def without_lags(self) -> "Contract":
        """What a table has to keep: the contract, but for the features that are computed from it."""
        if not self.lags:
            return self
        lags = {lag.name for lag in self.lags}
        features = tuple(one for one in self.features if one.name not in lags)
        slices = None if self.slices is None else tuple(one for one in self.slices if one.column not in lags)
        return msgspec.structs.replace(self, features=features, slices=slices)

    @property
    def error_name(self) -> str:
        """What the mean loss of answers is called (`models.contract.answers`)."""
        return "Brier score" if isinstance(self.target, Category) else "mean error"

    @property
    def error_unit(self) -> str:
        """The unit of losses; empty for those of probabilities."""
        return "" if isinstance(self.target, Category) else self.target.unit

    @property
    def signature(self) -> str:
        """Digest of what is asked and of the answers' form; two bundles with one signature can serve for each other."""
        form = self.target.values if isinstance(self.target, Category) else ()
        return hashlib.sha256(msgspec.json.encode((self.inputs, form), order="deterministic")).hexdigest()


def described(column: Input) -> str:
    """Say what a column is: as its definition does, or, of a lag, by what it is computed from."""
    meaning = f"{column.meaning}; null where that was not known yet" if isinstance(column, Lag) else ""
    return column.description or meaning


def _span(seconds: int) -> str:
    units = (("day", 86_400, 2), ("hour", 3600, 1), ("minute", 60, 1), ("second", 1, 0))
    unit, length = next(
        (unit, length) for unit, length, least in units if not seconds % length and seconds >= least * length
    )
    return f"{seconds // length} {unit}{'' if seconds == length else 's'}"


def _check_target(target: Number | Category) -> None:
    if target.nullable:
        raise DefinitionError(f"contract: target {target.name!r} may not be nullable")
    if isinstance(target, Category) and len(target.values) < 2:
        raise DefinitionError(f"contract: target {target.name!r} has one value only: nothing to tell apart")


def _check_values(category: Category) -> None:
    values = category.values
    if not values:
        raise DefinitionError(f"contract: category {category.name!r} has no values")
    if {type(value) for value in values} not in ({int}, {str}):
        raise DefinitionError(
            f"contract: category {category.name!r} mixes kinds; its values are all integers or all text"
        )
    if len(set(values)) < len(values):
        raise DefinitionError(f"contract: category {category.name!r} has a value twice")
    if {"", MISSING_CODE} & set(values):
        raise DefinitionError(f"contract: category {category.name!r} has the value that stands for null in arrays")


def _check_images(contract: Contract) -> None:
    """Refuse images that cannot be. Raises: `DefinitionError`."""
    images = [column for column in contract.features if isinstance(column, Image)]
    if misplaced := [one.name for one in (contract.target, *contract.checks) if isinstance(one, Image)]:
        raise DefinitionError(
            f"contract: {misplaced[0]!r} is an image; only a feature may be one, neither target nor checks"
        )
    if len(images) > 1:
        raise DefinitionError(
            f"contract: {' and '.join(repr(one.name) for one in images)} are images; a contract has one at most: put "
            "them together as channels of one"
        )
    for image in images:
        if why := _broken_image(image, contract):
            raise DefinitionError(f"contract: image {image.name!r} {why}")


def _broken_image(image: Image, contract: Contract) -> str:
    """Say why an image cannot be; nothing where it can."""
    if min(image.shape) < 1:
        return f"has height {image.height}, width {image.width} and channels {image.channels}; each is 1 or more"
    if image.size > _MOST_IN_IMAGE:
        return f"has {image.size:,} numbers; at most {_MOST_IN_IMAGE:,} fit into a request: make it smaller"
    if image.name in contract.unique:
        return "is named by unique; name columns that tell rows apart, such as a file's name among the checks"
    bounds = (image.minimum, image.maximum)
    if not all(map(math.isfinite, bounds)):
        return "needs bounds that are finite"
    if image.whole and not (
        all(bound.is_integer() for bound in bounds) and image.minimum >= 0 and image.maximum <= 255
    ):
        return (
            f"allows {image.minimum:.12g} to {image.maximum:.12g}; a byte holds whole numbers from 0 to 255: give such "
            "bounds, or say whole=False"
        )
    return ""


def _check_lags(contract: Contract) -> None:
    """Refuse lags that cannot be computed. Raises: `DefinitionError`."""
    columns = {column.name: column for column in (*contract.features, contract.target)}
    misplaced = [one.name for one in (*contract.checks, contract.target) if isinstance(one, Lag)]
    if misplaced:
        raise DefinitionError(f"contract: {misplaced[0]!r} is a lag; only features may be, neither target nor checks")
    lags = {lag.name for lag in contract.lags}
    if lags and contract.time is None:
        raise DefinitionError(f"contract: lag {min(lags)!r} needs a time column, which says what came before")
    if repeated := lags & set(contract.unique):
        raise DefinitionError(f"contract: unique names {sorted(repeated)}, lags, which tables do not have")
    for lag in contract.lags:
        if why := _broken_lag(lag, columns, {one.name: len(one.values) for one in contract.categories}):
            raise DefinitionError(f"contract: lag {lag.name!r} {why}")


def _broken_lag(lag: Lag, columns: Mapping[str, Feature], categories: Mapping[str, int]) -> str:
    """Say why a lag cannot be computed, by the columns and how many values categories have; nothing where it can."""
    of = columns.get(lag.of)
    numbers = [name for name, one in columns.items() if not isinstance(one, Category | Lag | Image)]
    there, told_apart = ", ".join(numbers) or "there is none", ", ".join(categories) or "there is none"
    if of is None:
        return f"is of {lag.of!r}, neither a feature nor the target; name a number: {there}"
    if isinstance(of, Category | Lag | Image):
        what = {Category: "a category", Image: "an image"}.get(type(of), "a lag itself")
        return f"is of {lag.of!r}, {what}; name a number: {there}"
    if odd := [name for name in lag.by if name not in categories]:
        return f"is by {odd[0]!r}; name features that are categories: {told_apart}"
    if (most := math.prod(categories[name] for name in lag.by)) > _MOST_SERIES:
        return f"tells {most:,} series apart, of {' and '.join(lag.by)}; at most {_MOST_SERIES:,} are"
    if not (math.isfinite(lag.hours) and lag.seconds >= 1):
        return f"lies {lag.hours:g} hours before; it must be some time before, a second at least"
    if not (math.isfinite(lag.tolerance_minutes) and lag.tolerance_minutes >= 0):
        return f"has tolerance_minutes {lag.tolerance_minutes:g}; use 0 or more"
    if not lag.nullable:
        return "must be nullable: the first rows of a series have none"
    if lag.minimum > of.minimum or lag.maximum < of.maximum:
        wider = f"{of.minimum:.12g} to {of.maximum:.12g}"
        return f"allows {lag.minimum:.12g} to {lag.maximum:.12g}; allow what {of.name!r} may be, {wider}"
    return ""


_FINE_PARTS = (TimePart.MINUTE_OF_DAY, TimePart.DAY_OF_YEAR)
"""Parts of a time with too many values for a group each."""


def _check_slices(contract: Contract) -> None:
    inputs = {column.name: column for column in contract.inputs}
    names = [one.name for one in contract.slices or ()]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DefinitionError(f"contract: slices {repeated} are declared more than once")
    for one in contract.slices or ():
        column = inputs.get(one.column)
        if column is None:
            raise DefinitionError(f"contract: a slice is of {one.column!r}, which is no input")
        if isinstance(column, Image):
            raise DefinitionError(f"contract: a slice is of {one.column!r}, an image; name a column that makes groups")
        if isinstance(column, Time) != (one.part is not None):
            must = "needs a part, such as TimePart.HOUR" if one.part is None else "has no parts: only a time has"
            raise DefinitionError(f"contract: the slice of {one.column!r} {must}")
        if one.part in _FINE_PARTS and not one.edges:
            raise DefinitionError(f"contract: the slice of {one.part} needs edges; a group for each value is too many")
        if isinstance(column, Category) and one.edges:
            raise DefinitionError(f"contract: the slice of {one.column!r} has edges, and the column is no number")
        if not all(before < after for before, after in pairwise(one.edges)):
            raise DefinitionError(f"contract: the edges of the slice of {one.column!r} must rise")
