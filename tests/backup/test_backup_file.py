"""A backup that is not whole, or was changed by one bit, is told from one that can be restored."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from random import Random

import pytest

from gateway.backup import backup_file
from gateway.backup.backup_file import FORMAT, BackupDamaged, Manifest, TableCopy
from gateway.ledger.db.session import InvalidDatabaseUrl

ROWS = b"".join(b"%d\tAda\t\\N\n" % number for number in range(20_000))
MANIFEST = Manifest(
    format=FORMAT,
    release="0.2.0",
    schema="0019",
    created_at="2026-03-15T12:00:00+00:00",
    postgresql="18.1",
    tables=(TableCopy("users", ("id", "name", "note"), 20_000),),
    months=("usage_tracking_2026_03",),
    sequences={"audit_log_id_seq": 7},
    journal_entries=None,
)


def write(path: Path, manifest: Manifest = MANIFEST) -> Path:
    with backup_file.create(path) as writer:
        with writer.member(manifest.tables[0].member) as stream:
            for begin in range(0, len(ROWS), 10_000):
                stream.write(ROWS[begin : begin + 10_000])
        writer.add_manifest(manifest)
    return path


def test_backup_file_gives_what_was_written(tmp_path: Path) -> None:
    path = write(tmp_path / "backup")
    with backup_file.open_verified(path) as reader, reader.member(MANIFEST.tables[0].member) as stream:
        assert (reader.manifest, stream.read()) == (MANIFEST, ROWS)
    assert [each.name for each in tmp_path.iterdir()] == ["backup"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_backup_file_is_read_by_other_tools(tmp_path: Path) -> None:
    path = write(tmp_path / "backup")
    content = path.read_bytes()
    assert hashlib.sha256(content[:-64]).hexdigest().encode() == content[-64:]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("manifest.json"))["schema"] == "0019"


def test_every_changed_bit_of_a_backup_is_noticed(tmp_path: Path) -> None:
    content = write(tmp_path / "backup").read_bytes()
    random, changed = Random(17), tmp_path / "changed"  # noqa: S311 - a fixed choice of places
    places = [0, len(content) - 1, len(content) - 64, *(random.randrange(len(content)) for _ in range(200))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.randrange(8)
        changed.write_bytes(damaged)
        with pytest.raises(BackupDamaged), backup_file.open_verified(changed):
            pass


@pytest.mark.parametrize("keep", [0, 1, 63, 64, 65, -65, -1])
def test_backup_that_is_cut_off_is_noticed(tmp_path: Path, keep: int) -> None:
    content = write(tmp_path / "backup").read_bytes()
    (tmp_path / "backup").write_bytes(content[:keep])
    with pytest.raises(BackupDamaged, match="checksum"), backup_file.open_verified(tmp_path / "backup"):
        pass


def test_backup_in_a_newer_format_names_its_release(tmp_path: Path) -> None:
    newer = Manifest(
        **{**{name: getattr(MANIFEST, name) for name in MANIFEST.__slots__}, "format": 2, "release": "9.0"}
    )
    with (
        pytest.raises(BackupDamaged, match=r"release 9\.0"),
        backup_file.open_verified(write(tmp_path / "backup", newer)),
    ):
        pass


def test_backup_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    path = write(tmp_path / "backup")
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), backup_file.create(path) as writer, writer.member("x") as stream:
        stream.write(b"%d" % (1 // 0))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["backup"]


def test_what_fails_while_a_backup_is_open_is_no_damage_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "backup")
    with pytest.raises(InvalidDatabaseUrl), backup_file.open_verified(path):
        raise InvalidDatabaseUrl("database.url: a certificate cannot be read")
