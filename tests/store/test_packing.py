"""A version in one file: the same bytes come out, and nothing else ever comes in."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mltrain.errors import InputError, MltrainError
from mltrain.store.packing import pack_version, unpack_version
from mltrain.store.promotion import promote_version
from mltrain.store.store import Store
from mltrain.store.version_pruning import prune_versions
from support.bare_versions import HAND, publish, tree


@pytest.fixture
def archive(store, tmp_path):
    """Return the path of an archive of the live version."""
    pack_version(store, "best", tmp_path / "model.tar")
    return tmp_path / "model.tar"


@pytest.fixture
def other(tmp_path):
    """Return an empty store on another machine."""
    return Store(tmp_path / "other")


def repacked(archive, change):
    """Return the bytes of an archive whose files were changed: `change` maps the list of (info, data) to another."""
    with tarfile.open(archive) as read:
        members = [(info, read.extractfile(info).read()) for info in read]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as write:
        for info, data in change(members):
            info.size = len(data) if info.isreg() else 0
            write.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_a_version_comes_out_as_it_went_in_and_is_not_promoted(store, other, archive):
    """Every byte of its folder, the slot, the serial; a second time nothing is written."""
    unpacked = unpack_version(other, archive)

    assert (unpacked.version, unpacked.slot, unpacked.created) == ("2025-10-15", "lgbm", True)
    assert tree(other.models / "2025-10-15") == tree(store.models / "2025-10-15")
    assert other.live_version() is None
    assert not other.open_named("2025-10-15").promoted
    before = tree(other.data_dir)
    assert not unpack_version(other, archive).created
    assert tree(other.data_dir) == before
    promote_version(other, "2025-10-15", **HAND)
    assert unpack_version(other, archive).version == other.live_version().name


def test_the_slot_travels_with_the_version(store, other, tmp_path):
    """It is published in the slot that it was trained for, whatever slot the store has."""
    publish(store.in_slot("btc"), b"b1")
    pack_version(store, "2025-10-15.3", tmp_path / "btc.tar")

    assert unpack_version(other, tmp_path / "btc.tar").slot == "btc"
    assert other.in_slot("btc").open_version("latest").name == "2025-10-15.3"


def test_equal_versions_make_equal_archives(store, archive, tmp_path):
    """No time, owner or order of the machine is in them; the manifest comes first."""
    assert pack_version(store, "2025-10-15", tmp_path / "again.tar").sha256
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as read:
        assert read.getnames()[0] == "2025-10-15/manifest.json"
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in read} == {(0, 0, 0, "")}


def test_a_damaged_version_is_not_packed(store, tmp_path):
    """And no archive is left."""
    (store.models / "2025-10-15" / "lgbm.pkl").write_bytes(b"changed")

    with pytest.raises(InputError, match="is not the file that was published"):
        pack_version(store, "2025-10-15", tmp_path / "model.tar")
    assert not (tmp_path / "model.tar").exists()


def test_another_version_of_that_name_is_refused(other, archive):
    """Whether it is there or was promoted and removed: a line of the log could mean either."""
    publish(other, b"impostor")
    with pytest.raises(InputError, match="is another version of that name") as caught:
        unpack_version(other, archive)
    assert "--data-dir" in caught.value.hint
    promote_version(other, "2025-10-15", **HAND)
    for mark in (b"b", b"c", b"d"):
        publish(other, mark, date="2025-10-16")
        promote_version(other, "latest", **HAND)
    assert prune_versions(other, keep=0).removed == ("2025-10-15", "2025-10-16")
    with pytest.raises(InputError, match="another version 2025-10-15 was promoted"):
        unpack_version(other, archive)


def plain(name, data=b"x"):
    """Return a plain file of an archive."""
    return tarfile.TarInfo(name), data


def special(name, kind, target=""):
    """Return a link, a device or a folder of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


CHANGES = {
    "a file is missing": lambda members: members[:-1],
    "a file is changed": lambda members: [*members[:-1], (members[-1][0], b"changed")],
    "the manifest is not first": lambda members: members[1:] + members[:1],
    "a file more": lambda members: [*members, plain("2025-10-15/more.bin")],
    "a file outside": lambda members: [*members, plain("../outside")],
    "an absolute path": lambda members: [*members, plain("/outside")],
    "a file of another version": lambda members: [*members, plain("2025-10-16/lgbm.pkl")],
    "a file twice": lambda members: [*members, members[-1]],
    "a symbolic link": lambda members: [*members, special("2025-10-15/link", tarfile.SYMTYPE, "/etc/passwd")],
    "a hard link": lambda members: [*members, special("2025-10-15/link", tarfile.LNKTYPE, "2025-10-15/lgbm.pkl")],
    "a device": lambda members: [*members, special("2025-10-15/device", tarfile.CHRTYPE)],
    "a folder": lambda members: [*members, special("2025-10-15", tarfile.DIRTYPE)],
    "a snapshot that the card does not name": lambda members: [*members, plain("snapshots/x/manifest.json", b"{}")],
    "nothing": lambda _: [],
}


@pytest.mark.parametrize("kind", CHANGES)
def test_anything_else_in_an_archive_is_refused(other, archive, kind):
    """Nothing is written, inside the data folder or outside."""
    archive.write_bytes(repacked(archive, CHANGES[kind]))
    with pytest.raises(InputError, match=r"model\.tar"):
        unpack_version(other, archive)
    assert not other.models.exists() or not other.version_names()
    assert not (other.data_dir.parent / "outside").exists()


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damaged_byte_is_refused_or_changes_nothing(archive, tmp_path, data):
    """Bytes between the files do not count; a version that is published is the one that was packed."""
    whole = archive.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    changed = whole[:at] if cut else whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    (tmp_path / "damaged.tar").write_bytes(changed)
    target = Store(tmp_path / "target")

    try:
        unpack_version(target, tmp_path / "damaged.tar")
    except MltrainError:
        return
    assert target.open_named("2025-10-15").verify() == ()


def test_an_archive_that_is_not_there_is_named_with_the_command_that_writes_one(other, tmp_path):
    """Nothing is made."""
    with pytest.raises(InputError, match=r"the archive .*absent\.tar does not exist") as err:
        unpack_version(other, tmp_path / "absent.tar")

    assert "mltrain models pack" in err.value.hint
    assert not other.models.exists()
