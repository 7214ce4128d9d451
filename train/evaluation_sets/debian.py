"""Debian's packages as folders: downloaded and unpacked without being installed, which needs no rights.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import subprocess
from pathlib import Path

from train.evaluation_sets.writing import whole_folder

SECONDS = 900


class Unavailable(Exception):  # noqa: N818 (it is no error: what needs the package is left out)
    """A package cannot be had here; the message says why, and how to have it."""


class Debian:
    """Packages below a folder, each fetched when it is first asked for."""

    def __init__(self, folder: Path, *, allowed: bool = True) -> None:
        """Takes the folder, and whether to download what it lacks."""
        self.folder, self.allowed = folder, allowed
        self._reasons: dict[str, str] = {}

    def package(self, name: str) -> Path:
        """The folder that a package's files lie in, `usr/share/...` below it.

        Raises:
            Unavailable: it is not there and cannot be fetched. It is tried once.
        """
        target = self.folder / name
        if target.is_dir():
            return target
        if name not in self._reasons:
            reason = self._fetch(name, target) if self.allowed else "downloads are switched off (--no_debian)"
            if reason is None:
                return target
            self._reasons[name] = reason
        raise Unavailable(
            f"Debian's package {name} is not here: {self._reasons[name]}. Where apt-get has package lists (apt-get "
            f"update) and a mirror this program fetches it; or unpack the file yourself: dpkg -x {name}_*.deb {target}"
        )

    def _fetch(self, name: str, target: Path) -> str | None:
        """What went wrong, None for nothing."""
        options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30"]
        try:
            with whole_folder(target) as folder:
                _run(["apt-get", *options, "download", name], folder)
                for package in sorted(folder.glob("*.deb")):
                    _run(["dpkg", "-x", package.name, "."], folder)
                    package.unlink()
        except _CommandFailed as error:
            return str(error)
        return None


class _CommandFailed(Exception):  # noqa: N818 (private, and made into a reason)
    """A command did not do what it was asked for."""


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise _CommandFailed(f"there is no {command[0]} on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise _CommandFailed(f"{command[0]} did not finish within {SECONDS} s") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise _CommandFailed(f"{command[0]}: {lines[-1]}")
