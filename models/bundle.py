"""A bundle: what one training yields and what may serve.

Four files: `model.onnx` (preprocessing inside), `card.json` (what it is and where it comes from), `profile.json` (what
its errors and columns looked like when it was judged), `state.safetensors` (weights, to train on from). The card ties
code, data and model together and carries the contract, so that a service needs nothing else. A fifth, `card.html`, is
the card for people; it follows from the card, and bundles of before it was written have none.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime

import msgspec

from models.contract.columns import Contract
from models.errors import BundleError, DefinitionError
from models.figures import Evaluation
from models.pages.card import card_page

MODEL_NAME = re.compile(r"[a-z](?!\w*__)[a-z0-9_]{2,39}")
"""What a model may be called: it becomes a folder, a Bento and a repository (lakeFS takes none of fewer letters)."""

FILES = ("model.onnx", "card.json", "profile.json", "state.safetensors")
"""What a bundle needs."""
PAGE = "card.html"


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
    """git commit of the checkout, with `+dirty` when files differed; `unknown` outside a checkout."""
    source_digest: str
    """Digest of the package's own sources."""
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


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """The files, in memory."""

    card: Card
    onnx: bytes
    profile: bytes
    state: bytes

    def __post_init__(self) -> None:
        """Refuse a graph that is not the card's. Raises: `BundleError`."""
        digest = hashlib.sha256(self.onnx).hexdigest()
        if digest != self.card.onnx_digest:
            raise BundleError(
                f"bundle {self.card.version}: model.onnx has digest {digest[:12]}, its card says "
                f"{self.card.onnx_digest[:12]}; register the bundle again"
            )

    def files(self) -> dict[str, bytes]:
        """Give each file's content by name."""
        card = msgspec.json.format(msgspec.json.encode(self.card), indent=2)
        needed = dict(zip(FILES, (self.onnx, card, self.profile, self.state), strict=True))
        return needed | {PAGE: card_page(self.card)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "Bundle":
        """Rebuild a bundle. Raises: `BundleError` for a missing, corrupt or mismatched file."""
        if missing := [name for name in FILES if name not in files]:
            raise BundleError(f"bundle lacks {', '.join(missing)}")
        return cls(
            card=decode_card(files["card.json"]),
            onnx=files["model.onnx"],
            profile=files["profile.json"],
            state=files["state.safetensors"],
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
