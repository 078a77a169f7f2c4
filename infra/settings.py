"""One frozen, typed set of settings: environment (`OKRUH_*`), then `okruh.toml`, then these defaults.

Settings alone move a part from the laptop to shared servers; a value that cannot be honoured is an error.
"""

import os
import tomllib
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from infra.errors import Misconfigured
from infra.lake.lakefs import address

EMBEDDED = "embedded"
"""The lake on this machine."""


class Settings(BaseSettings):
    """Everything that can be set. Field names are the variables' names without `OKRUH_`."""

    model_config = SettingsConfigDict(
        env_prefix="OKRUH_",
        toml_file="okruh.toml",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # a traceback shows the cause as well, and a value may hold a secret
    )

    home: Path = Field(default=Path(".okruh"), validate_default=True)
    """Folder of all state: lake, journal, Bentos, tracker runs, caches, reports. Deleting it resets everything."""

    lake: str = EMBEDDED
    """Where data and bundles are kept: `embedded` (under `home`), or a lakeFS server, `lakefs+https://host[/team]`."""

    lakefs_access_key_id: str | None = None
    """One half of the lakeFS server's keys."""

    lakefs_secret_access_key: SecretStr | None = None
    """The other half; never shown."""

    lakefs_storage: str | None = None
    """Where the lakeFS server shall keep what is in new repositories, such as `s3://bucket/okruh`; without it, where it
    does by default."""

    branch: str = "main"
    """The lake branch that commands and services take as the truth."""

    model: str | None = None
    """The model that `bentoml build` builds a service for."""

    catalog: Path | None = None
    """A folder of definitions beside those in `models/catalog`, one folder a model."""

    tracking: Literal["offline", "online", "disabled"] = "offline"
    """W&B mode. `online` needs WANDB_API_KEY."""

    tracking_wait_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Seconds that a training waits at its end, at most, for what W&B has not recorded or sent yet."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where networks are trained; a device that is asked for and absent is an error."""

    train_threads: int = Field(default=1, ge=1)
    """CPU threads of a training. More than one helps wide networks; on a busy machine it slows small ones down."""

    train_checkpoint_s: float = Field(default=10.0, gt=0)
    """Seconds between the checkpoints of a training, from which it goes on after a kill."""

    studies: SecretStr | None = None
    """Where searches keep their trials: a database's address as SQLAlchemy writes it, such as
    `postgresql://user:password@host/name`; without it, files in `home`."""

    ray_address: str | None = None
    """The Ray cluster on which `okruh tune --on ray` runs its trials, such as `10.0.0.5:6379` or `ray://host:10001`;
    without it, one is started on this machine for as long as the search takes."""

    provider: Literal["auto", "cpu", "cuda", "tensorrt", "coreml", "openvino"] = "auto"
    """What runs the served model. `auto`: the best one that the installed onnxruntime offers and that can be used here;
    tensorrt only where it is named. A named one that cannot be used is an error."""

    variant: Literal["float32", "fp16", "int8"] = "float32"
    """Which of a bundle's graphs Bentos contain and services answer by; one that a bundle has not is an error."""

    provider_fallback: bool = False
    """Whether the CPU may serve where the named provider cannot."""

    serve_threads: int | None = Field(default=None, ge=1)
    """CPU threads of each model that a service worker has loaded; without it, usable cores / workers. Idle ones sleep
    and cost about a MB a model. The smallest networks are some microseconds faster with 1."""

    gpu_memory_mb: int | None = Field(default=None, ge=1)
    """MiB of a CUDA device that each loaded model may take; without it, what there is. A worker holds more than one
    model: the champion and the one before it."""

    cuda_graphs: bool = False
    """Whether batches are replayed on CUDA instead of launched kernel by kernel. A graph of which the CPU runs a part,
    as of one that takes text, cannot be: an error with `provider = "cuda"`, unless fallback is allowed."""

    journal: Literal["strict", "relaxed"] = "strict"
    """Whether a prediction is on disk before its answer leaves, or within a tenth of a second after it."""

    journal_full: Literal["stop", "go_on"] = "stop"
    """What happens to predictions that cannot be recorded: refused, or answered all the same, counted and told."""

    journal_mib: int = Field(default=16 * 1024, ge=1)
    """With more MiB than this waiting to be archived the journal counts as full."""

    journal_keep_days: float = Field(default=365.0, gt=0, allow_inf_nan=False)
    """How long after an answer its label is taken, and the name of its row remembered."""

    workers: int = Field(default=1, ge=1)
    """Processes that answer requests, on one port; each has the model, and a session, of its own."""

    access_log_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the requests that are logged, each as a line of JSON; answers of 500 and above always are."""

    traces_endpoint: str | None = None
    """Where traces are sent by OTLP over HTTP, such as `http://collector:4318`; without it, nothing is traced."""

    traces_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of the requests without a `traceparent` that are traced; with one, its sampled flag decides."""

    access: Literal["auto", "open", "keys"] = "auto"
    """Whether callers of a service need a key: `auto`, where other machines reach it; `open`, never; `keys`, always."""

    keys: Path | None = None
    """The file of callers' keys; without it, `keys.json` in `home`."""

    rollout_poll_s: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """Seconds between a service's looks at the lake's rollout: an upper bound of how late a promotion is seen."""

    @field_validator("traces_endpoint")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        """Give the whole address: OTLP's own path where there is none."""
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise ValueError(
                "it is http[s]://host[:port][/path]; a key that a collector wants goes into OTEL_EXPORTER_OTLP_HEADERS"
            )
        return value if parts.path.strip("/") else urlunsplit(parts._replace(path="/v1/traces"))

    @field_validator("home", "branch", "model", "keys", "catalog", "studies", "ray_address", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        if value == "":
            raise ValueError("it is empty; give a value, or leave it out")
        return value

    @field_validator("home", "keys", "catalog")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        try:
            return value and value.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError("no user has that home directory") from error

    @field_validator("lake")
    @classmethod
    def _known_lake(cls, value: str) -> str:
        if value != EMBEDDED:
            address.parse(value)
        return value

    @field_validator("gpu_memory_mb", "cuda_graphs")
    @classmethod
    def _of_cuda(cls, value: int | None, others: ValidationInfo) -> int | None:
        if value and (provider := others.data.get("provider", "auto")) not in ("auto", "cuda"):
            raise ValueError(f"only OKRUH_PROVIDER=cuda heeds this, and {provider} is set; leave it out")
        return value

    @model_validator(mode="after")
    def _with_keys(self) -> "Settings":
        if self.lake != EMBEDDED and not (self.lakefs_access_key_id and self.lakefs_secret_access_key):
            raise ValueError("a lakeFS server wants OKRUH_LAKEFS_ACCESS_KEY_ID and OKRUH_LAKEFS_SECRET_ACCESS_KEY")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file before default; call arguments (tests, `--branch`) before all."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def bentos(self) -> Path:
        """The Bento store (BENTOML_HOME)."""
        return self.home / "bentoml"

    def environment(self) -> dict[str, str]:
        """Give these settings as variables, for a child process that must see the same."""
        values = self.model_dump(exclude_none=True)
        return {
            f"OKRUH_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
        }


def load_settings(**overrides: object) -> Settings:
    """Read the settings. Raises: `Misconfigured` naming each setting that is wrong, or that there is not."""
    known = {f"OKRUH_{name.upper()}" for name in Settings.model_fields}
    if unknown := sorted(name for name in os.environ if name.upper().startswith("OKRUH_") and name not in known):
        raise Misconfigured(f"no setting is called {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"{'_'.join(['OKRUH', *map(str, one['loc'] or ['lake'])]).upper()}: "
            f"{one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_input=False, include_url=False)
        )
        raise Misconfigured(f"settings are wrong: {problems}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"okruh.toml is not TOML: {error}") from error
