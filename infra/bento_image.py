"""What a Bento's image installs: exactly the versions that it was built and tested with."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bentoml.images import Image

from infra.errors import Misconfigured

_REQUIREMENTS = (
    "bentoml",
    "blake3",
    "click",
    "httptools",
    "lakefs-client",
    "msgspec",
    "numpy",
    "opentelemetry-api",
    "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-sdk",
    "prometheus-client",
    "pyarrow",
    "pydantic",
    "pydantic-settings",
    "starlette",
    "tzdata",
    "urllib3",
    "uvicorn",
    "uvloop",
)
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
"""They hold the same files: whichever is installed last works, or none does."""

_CUDA = "nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04"
"""What onnxruntime-gpu is built for from 1.27 on: CUDA 13.0 and cuDNN 9."""


class PinnedImage(Image):  # type: ignore[misc]  # BentoML's classes are untyped to callers
    """An image whose requirements are pinned already, so that a build needs neither network nor `uv`."""

    def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:  # noqa: ARG002
        """Write nothing and ask nobody: BentoML would install `uv` here even where it locks nothing."""
        pinned: str = self.python_requirements
        return pinned


def image() -> PinnedImage:
    """Pin what a service imports to the installed versions. Raises: `Misconfigured`."""
    python = PinnedImage(lock_python_packages=False)
    python.python_packages(*requirements())
    return python


def gpu_image() -> PinnedImage:
    """Do the same on CUDA, with onnxruntime-gpu of the installed runtime's version. Raises: `Misconfigured`."""
    if _version("onnxruntime-openvino"):  # whose versions are behind, and before 1.27 CUDA was another
        raise Misconfigured("a Bento for a GPU is built where onnxruntime or onnxruntime-gpu is installed")
    cuda = PinnedImage(base_image=_CUDA, lock_python_packages=False)
    cuda.system_packages("python3-pip")
    cuda.run("pip install --break-system-packages uv")  # BentoML's recipe asks for it, and this image has no Python
    cuda.python_packages(*requirements("onnxruntime-gpu"))
    return cuda


def requirements(runtime: str | None = None) -> list[str]:
    """Give one pinned requirement for each distribution that a service imports. Raises: `Misconfigured`.

    Args:
        runtime: takes the place of the installed ONNX Runtime, in its version.
    """
    installed = {name: found for name in _RUNTIMES if (found := _version(name))}
    if len(installed) > 1:
        raise Misconfigured(f"{', '.join(installed)} exclude each other: uninstall them, then install one of them")
    runtimes = [f"{runtime or name}=={found}" for name, found in installed.items()]
    return sorted([f"{name}=={found}" for name in _REQUIREMENTS if (found := _version(name))] + runtimes)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
