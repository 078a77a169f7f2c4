"""A bundle: what one training yields and what may serve.

Four files: `model.onnx` (preprocessing inside), `card.json` (what it is and where it comes from), `profile.json` (what
its errors and columns looked like when it was judged), `state.safetensors` (weights, to train on from). The card ties
code, data and model together and carries the contract, so that a service needs nothing else. A fifth, `card.html`, is
the card for people; it follows from the card, and bundles of before it was written have none. `definition.zip` is what
made the network: no commit may have it, and bundles of before it was kept lack it. Where the definition asks for them,
smaller graphs lie beside: `model.fp16.onnx`, `model.int8.onnx`.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from models.contract.columns import Contract
from models.errors import BundleError, DefinitionError
from models.figures import Evaluation
from models.pages.card import card_page

_MODEL_NAME = re.compile(r"[a-z](?!\w*__)[a-z0-9_]{2,39}")
"""What a model may be called: it becomes a folder, a Bento and a repository (lakeFS takes none of fewer letters)."""


def check_name(model: str) -> None:
    """Refuse what a model may not be called. Raises: `DefinitionError`."""
    if not _MODEL_NAME.fullmatch(model):
        raise DefinitionError(
            f"model name {model!r}: use a small letter, then 2 to 39 small letters, digits and single `_`"
        )


FILES = ("model.onnx", "card.json", "profile.json", "state.safetensors")
"""What a bundle needs."""
PAGE = "card.html"
DEFINITION = "definition.zip"

VariantName = Literal["fp16", "int8"]
"""A smaller graph beside a bundle's own: numbers of half precision, or of eight bits."""

FLOAT32 = "float32"
"""A bundle's own graph, where one of its graphs is named."""


def graph_file(variant: str) -> str:
    """Say which of a bundle's files holds a variant of its graph."""
    return "model.onnx" if variant == FLOAT32 else f"model.{variant}.onnx"


class DataReference(msgspec.Struct, frozen=True, kw_only=True):
    """The data a bundle was trained on, by lake commit."""

    commit: str
    paths: tuple[str, ...]
    """Objects that were read, as of that commit."""
    rows_train: int
    rows_validation: int
    rows_test: int
    learn_from: datetime | None
    """Rows about earlier moments were left out."""
    validation_from: datetime | None
    """Rows known before it were learned from. None: the card's settings say which shares were held out."""
    test_from: datetime | None
    """Rows known from it on, until the card's `as_of`, judged. None: see `validation_from`."""


class Computed(msgspec.Struct, frozen=True, kw_only=True):
    """What a training was computed on; on another the same weights are not promised."""

    device: str
    """`cpu`, `cuda` or `mps`."""
    processor: str
    """The GPU's name; of a CPU its name and the instructions that torch uses of it."""
    threads: int
    """CPU threads of each process."""
    processes: int
    """How many trained together."""
    torch: str
    """torch's version, with the name of its build."""
    python: str


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Which code, environment and runs made a bundle."""

    code_commit: str
    """git commit of the checkout, with `+dirty` when files other than definitions differed; `unknown` outside one."""
    source_digest: str
    """Digest of the package's own sources and of the definition."""
    environment_digest: str
    """Digest of the installed distributions and their versions."""
    flow_run: str
    tracker_run: str
    distributions: tuple[str, ...] = ()
    """What the environment's digest is of, `name==version` each; none in cards of before it was kept."""
    computed: Computed | None = None
    """None in cards of before it was kept."""


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How close the exported graph stays to the network, on real rows."""

    rows: int
    batch_sizes: tuple[int, ...]
    largest_difference: float
    """Largest |graph - network|, in the target's unit."""
    tolerance: float


class Provided(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution provider gave that the ONNX Runtime which the graph was proved with has."""

    provider: str
    """As `OKRUH_PROVIDER` names it."""
    largest_difference: float | None = None
    """Largest |graph - network| there, in the target's unit; None where it did not run."""
    nodes: dict[str, int] = {}
    """How many of the graph's nodes each provider ran."""
    left_to_cpu: dict[str, int] = {}
    """Operators of those nodes that it left to the CPU, and how many there are of each."""
    missed: str | None = None
    """Why nothing shall be served there; None where the answers are those of the network."""


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """A smaller graph, and what it costs on the test rows beside the bundle's own."""

    name: VariantName
    refused: str | None = None
    """Why there is none; None where there is its file."""
    digest: str | None = None
    """sha256 of its file."""
    bytes: int = 0
    """Of its file."""
    metrics: dict[str, float] = {}
    """As the card's."""
    loss_more: float | None = None
    """Its mean loss minus that of the bundle's own graph."""
    largest_difference: float | None = None
    """Largest |variant - network|, in the target's unit, or of a probability."""
    batch_sizes: tuple[int, ...] = ()
    """That it was run in."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is and where it comes from."""

    model: str
    version: str
    contract: Contract
    as_of: datetime
    """Only what was known at this moment was read."""
    created_at: datetime
    seed: int
    settings: dict[str, float | int | str | bool | None]
    """Training settings, flat."""
    network_settings: dict[str, float | int | str | bool | None] = {}
    """What the network was made with, beside the rows; empty in cards of before it was kept."""
    warm_start: str | None
    """The version whose weights the training started from."""
    data: DataReference
    origin: Origin
    metrics: dict[str, float]
    """On the test rows, which the training never saw; errors in the target's unit."""
    slices: dict[str, dict[str, float]]
    """Mean losses, by slice and group."""
    parity: Parity
    onnx_digest: str
    """sha256 of `model.onnx`."""
    description: str = ""
    """What the model is for, as its definition says."""
    caveat: str = ""
    """What a reader must know of the sample that it was trained on."""
    evaluation: Evaluation | None = None
    """None in cards of before it was kept."""
    variants: tuple[Variant, ...] = ()
    """Smaller graphs that the definition asks for."""
    providers: tuple[Provided, ...] = ()
    """What the graph was proved on; none in cards of before it was kept."""
    definition_digest: str | None = None
    """sha256 of `definition.zip`; None in cards of before it was kept."""

    @property
    def files(self) -> tuple[str, ...]:
        """Name the files that the bundle needs."""
        smaller = (graph_file(one.name) for one in self.variants if one.refused is None)
        return (*FILES, *smaller, *(() if self.definition_digest is None else (DEFINITION,)))

    def digest(self, variant: str) -> str:
        """Give the digest of a graph. Raises: `BundleError` where the bundle has none of that name."""
        if variant == FLOAT32:
            return self.onnx_digest
        found = next((one for one in self.variants if one.name == variant), None)
        if found is None or found.digest is None:
            why = f"it was refused: {found.refused}" if found else f"{self.model} did not declare it in `variants`"
            raise BundleError(
                f"bundle {self.version} has no {variant} variant: {why}; train one that has it, or set "
                f"OKRUH_VARIANT={FLOAT32}"
            )
        return found.digest

    def check_graph(self, variant: str, content: bytes) -> None:
        """Refuse a graph that is not the card's. Raises: `BundleError`."""
        self._check(graph_file(variant), content, self.digest(variant))

    def check_definition(self, content: bytes | None) -> None:
        """Refuse files of a definition that are not the card's. Raises: `BundleError`."""
        if content is not None or self.definition_digest is not None:
            self._check(DEFINITION, content or b"", self.definition_digest or "")

    def _check(self, file: str, content: bytes, wanted: str) -> None:
        found = hashlib.sha256(content).hexdigest()
        if found != wanted:
            raise BundleError(
                f"bundle {self.version}: {file} has digest {found[:12]}, its card says {wanted[:12] or 'none'}; "
                "register the bundle again"
            )


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """The files, in memory."""

    card: Card
    onnx: bytes
    profile: bytes
    state: bytes
    variants: dict[str, bytes] = {}
    """Smaller graphs by name."""
    definition: bytes | None = None
    """Files of the definition, as `models.definition_files` packs them; None of before they were kept."""

    def __post_init__(self) -> None:
        """Refuse what is not the card's. Raises: `BundleError`."""
        self.card.check_definition(self.definition)
        for variant, content in {FLOAT32: self.onnx, **self.variants}.items():
            self.card.check_graph(variant, content)

    def files(self) -> dict[str, bytes]:
        """Give each file's content by name."""
        card = msgspec.json.format(msgspec.json.encode(self.card), indent=2)
        needed = dict(zip(FILES, (self.onnx, card, self.profile, self.state), strict=True))
        smaller = {graph_file(name): content for name, content in self.variants.items()}
        definition = {} if self.definition is None else {DEFINITION: self.definition}
        return needed | smaller | definition | {PAGE: card_page(self.card)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "Bundle":
        """Rebuild a bundle. Raises: `BundleError` for a missing, corrupt or mismatched file."""
        if missing := [name for name in FILES if name not in files]:
            raise BundleError(f"bundle lacks {', '.join(missing)}")
        card = decode_card(files["card.json"])
        if missing := [name for name in card.files if name not in files]:
            raise BundleError(f"bundle lacks {', '.join(missing)}")
        return cls(
            card=card,
            onnx=files["model.onnx"],
            profile=files["profile.json"],
            state=files["state.safetensors"],
            variants={one.name: files[graph_file(one.name)] for one in card.variants if one.refused is None},
            definition=None if card.definition_digest is None else files[DEFINITION],
        )


def decode_card(content: bytes) -> Card:
    """Read a card. Raises: `BundleError`."""
    try:
        return msgspec.json.decode(content, type=Card)
    except (msgspec.DecodeError, UnicodeDecodeError, DefinitionError) as error:
        raise BundleError(f"card.json is not a card: {error}") from error


def bundle_folder(version: str) -> str:
    """Where the lake keeps a bundle."""
    return f"bundles/{version}"
