"""What can go wrong with what we stand on.

models.errors.OkruhError
└── InfraError
    ├── Unavailable      a server, a disk or a port does not answer now; the only one worth retrying
    ├── NotFound         a name that nothing bears: repository, ref, path, version, prediction id
    ├── Conflict         somebody else changed the same thing first
    ├── Misconfigured    a setting is missing, wrong or cannot be honoured
    └── Corrupt          stored bytes differ from their digest

Each adapter translates its product's errors in one place, `from` the original.
"""

from models.errors import OkruhError


class InfraError(OkruhError):
    """Root of what can go wrong below."""


class Unavailable(InfraError):
    """A server, a disk or a port does not answer now; trying again may help."""


class NotFound(InfraError):
    """Nothing bears this name."""


class Conflict(InfraError):
    """Somebody else changed the same thing first."""


class Misconfigured(InfraError):
    """A setting is missing, wrong or cannot be honoured."""


class Corrupt(InfraError):
    """Stored bytes differ from the digest they are named by."""
