"""Where a lakeFS server is, as settings and commands say it: `lakefs+https://host[:port][/team]`."""

import re
from urllib.parse import urlsplit

import msgspec

_TEAM = re.compile(r"(?!.*--|.*-$)[a-z0-9][a-z0-9-]{0,20}")


class Address(msgspec.Struct, frozen=True):
    """A server, and what the names of its repositories begin with."""

    url: str
    """`http[s]://host[:port]`."""
    team: str
    """Empty, or what keeps teams on one server apart."""

    def repository(self, name: str) -> str:
        """Name a repository on the server; no other team and name give the same one."""
        return f"{self.team}--{name}" if self.team else name


def parse(text: str) -> Address:
    """Read an address. Raises: `ValueError`, whose message does not show it, for it may hold a secret."""
    parts = urlsplit(text)
    if parts.scheme not in ("lakefs+https", "lakefs+http"):
        raise ValueError("a lake is `embedded` or `lakefs+https://host`")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address holds no keys; set OKRUH_LAKEFS_ACCESS_KEY_ID and OKRUH_LAKEFS_SECRET_ACCESS_KEY")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError("its port is no number up to 65535") from error
    team = parts.path.strip("/")
    if not host or parts.query or parts.fragment or (team and not _TEAM.fullmatch(team)):
        raise ValueError(
            "a server is `lakefs+https://host[:port][/team]`, where `team` is small letters, digits and single '-'"
        )
    shown = f"[{host}]" if ":" in host else host
    return Address(f"{parts.scheme.removeprefix('lakefs+')}://{shown}{f':{port}' if port else ''}", team)
