"""What a Bento's image installs: exactly the versions that it was built and tested with."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bentoml.images import Image

_REQUIREMENTS = (
    "bentoml",
    "blake3",
    "click",
    "httptools",
    "lakefs-client",
    "msgspec",
    "numpy",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-sdk",
    "prometheus-client",
    "pydantic-settings",
    "tzdata",
    "urllib3",
    "uvloop",
)
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


class PinnedImage(Image):  # type: ignore[misc]  # BentoML's classes are untyped to callers
    """An image whose requirements are pinned already, so that a build needs neither network nor `uv`."""

    def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:  # noqa: ARG002
        """Write nothing and ask nobody: BentoML would install `uv` here even where it locks nothing."""
        pinned: str = self.python_requirements
        return pinned


def image() -> PinnedImage:
    """Pin what a service imports to the installed versions."""
    python = PinnedImage(lock_python_packages=False)
    python.python_packages(*requirements())
    return python


def requirements() -> list[str]:
    """Give one pinned requirement for each distribution that a service imports."""
    found = [f"{name}=={installed}" for name in (*_REQUIREMENTS, *_RUNTIMES) if (installed := _version(name))]
    return sorted(found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
