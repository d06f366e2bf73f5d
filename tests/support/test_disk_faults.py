"""The check of a traced run: a power cut may come between any two operations of a thread."""

from __future__ import annotations

from support.disk_faults import Operation, unsynced_renames

WRITE = Operation("1", "write", 1, "3</d/a/.x.tmp>, ")
SYNC = Operation("1", "fsync", 1, "3</d/a/.x.tmp>")
RENAME = Operation("1", "rename", 1, '"/d/a/.x.tmp", "/d/a/x"')
SYNC_FOLDER = Operation("1", "fsync", 2, "4</d/a>")
ELSEWHERE = Operation("2", "write", 1, "5</d/b/.y.tmp>, ")


def test_a_synced_file_in_a_synced_folder_is_sound():
    assert unsynced_renames([WRITE, SYNC, RENAME, SYNC_FOLDER]) == []


def test_a_source_that_was_not_synced_is_found():
    assert unsynced_renames([WRITE, RENAME, SYNC_FOLDER]) == ["/d/a/.x.tmp"]
    assert unsynced_renames([SYNC, WRITE, RENAME, SYNC_FOLDER]) == ["/d/a/.x.tmp"]


def test_a_folder_that_was_not_synced_right_after_is_found():
    again = Operation("1", "write", 2, "3</d/a/.z.tmp>, ")

    assert unsynced_renames([WRITE, SYNC, RENAME]) == ["/d/a/x"]
    assert unsynced_renames([WRITE, SYNC, RENAME, again, SYNC_FOLDER]) == ["/d/a/x"]


def test_another_thread_may_come_in_between():
    assert unsynced_renames([WRITE, SYNC, RENAME, ELSEWHERE, SYNC_FOLDER]) == []


def test_the_sync_of_another_thread_does_not_count():
    other = Operation("2", "fsync", 1, "4</d/a>")

    assert unsynced_renames([WRITE, SYNC, RENAME, ELSEWHERE, other]) == ["/d/a/x"]
