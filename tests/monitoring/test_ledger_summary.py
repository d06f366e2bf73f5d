from __future__ import annotations

import pytest

from mltrain.documents.results import to_plain
from mltrain.errors import LockedError
from mltrain.monitoring.ledger import Ledger, LedgerTail, prune_ledger, read_ledger
from mltrain.monitoring.ledger_summary import summarise_ledger
from mltrain.storage import locks
from mltrain.times import DAY_MS, parse_time
from support.ledgers import ROW, write_ledger

NOW_MS = parse_time("2025-10-15T12:00:00Z")


@pytest.fixture
def folder(tmp_path):
    """Return a ledger of three days, with twelve rows each."""
    write_ledger(tmp_path, now_ms=NOW_MS)
    return tmp_path / "ledger"


class TestSummary:
    def test_counts_are_those_of_the_rows(self, folder):
        """By symbol, reason and version, with the newest rows at the end."""
        rows = list(read_ledger(folder))
        found = summarise_ledger(folder, newest=5)

        assert (found.rows, found.days, found.problem) == (36, 3, None)
        assert (found.first_at, found.last_at) == (rows[0].at, rows[-1].at)
        assert found.newest == tuple(rows[-5:])
        assert found.refused == {"stale": 3, "halted": 3}
        assert [(s.symbol, s.rows, s.refused, s.missed, s.last_ts) for s in found.symbols] == [
            ("BTCUSDT", 18, 0, 8, rows[-2].ts),
            ("ETHUSDT", 18, 6, 8, rows[-1].ts),
        ]
        assert [(v.version, v.rows, v.first_at) for v in found.versions] == [
            ("2025-10-14", 24, rows[0].at),
            ("2025-10-15", 12, rows[13].at),
        ]
        assert (found.latency_p50_ms, found.latency_p99_ms) == (6.5, 8.5)

    def test_other_code_is_another_row(self, folder):
        """Two processes that run different code show."""
        with Ledger(folder) as ledger:
            ledger.append([ROW, ROW.__class__(**{**to_plain(ROW), "code_sha256": "1" * 64})])

        assert [v.code_sha256[0] for v in summarise_ledger(folder).versions] == ["0", "0", "1"]

    def test_a_time_and_symbols_select_answers(self, folder):
        """The refused ones of others are not counted."""
        found = summarise_ledger(folder, since_ms=NOW_MS - DAY_MS, symbols=["BTCUSDT"], newest=0)

        assert (found.rows, found.refused, found.newest) == (6, {}, ())
        assert summarise_ledger(folder, symbols=["NONE"]).first_at is None

    def test_damage_is_named_and_ends_the_reading(self, folder):
        """A later day can be read."""
        path = folder / "2025-10-14.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"p":0.53', b'"p":0.93'))
        found = summarise_ledger(folder)

        assert found.rows == 18
        assert "2025-10-14.jsonl: line 7: does not match its own hash" in found.problem
        assert summarise_ledger(folder, since_ms=NOW_MS - DAY_MS // 2).problem is None

    def test_nothing_is_no_damage(self, tmp_path):
        """A folder that does not exist is not created."""
        found = summarise_ledger(tmp_path / "none")

        assert (found.rows, found.days, found.latency_p50_ms, found.problem) == (0, 0, None, None)
        assert not (tmp_path / "none").exists()


class TestPrune:
    @pytest.mark.parametrize(("keep_days", "removed"), [(1, ["13", "14"]), (2, ["13"]), (3, []), (400, [])])
    def test_the_oldest_days_go(self, folder, keep_days, removed):
        """What is left can be read and continued."""
        size = sum((folder / f"2025-10-{day}.jsonl").stat().st_size for day in removed)
        dry = prune_ledger(folder, keep_days=keep_days, now_ms=NOW_MS, dry_run=True)
        assert len(list(folder.glob("*.jsonl"))) == 3
        found = prune_ledger(folder, keep_days=keep_days, now_ms=NOW_MS)
        with Ledger(folder) as ledger:
            ledger.append([ROW])

        assert dry == found
        assert found.removed == tuple(f"2025-10-{day}" for day in removed)
        assert (found.kept, found.bytes) == (3 - len(removed), size)
        assert len(list(read_ledger(folder))) == 12 * found.kept + 1

    def test_the_newest_day_stays(self, folder):
        """However old it is: a line must continue it."""
        assert prune_ledger(folder, keep_days=1, now_ms=NOW_MS + 99 * DAY_MS).kept == 1
        assert len(list(read_ledger(folder))) == 12

    def test_a_writer_and_a_reader_go_on(self, folder):
        """A process that appends, and one that reads, even in the middle of the days that are removed."""
        tail, rows = LedgerTail(folder), []
        with Ledger(folder) as ledger:
            ledger.append([ROW])
            for row in tail.new_rows():
                rows.append(row)
                if len(rows) == 3:
                    prune_ledger(folder, keep_days=1, now_ms=NOW_MS)
            ledger.append([ROW])
            rows += tail.new_rows()

        assert len(rows) == 12 + 12 + 1 + 1
        assert len(list(read_ledger(folder))) == 12 + 1 + 1

    def test_takes_the_lock(self, folder, monkeypatch):
        """A line is never appended to a file that is about to go."""
        monkeypatch.setattr(locks, "FOLDER_WAIT_S", 0.0)
        with locks.lock_folder(folder, purpose="x"), pytest.raises(LockedError):
            prune_ledger(folder, keep_days=1, now_ms=NOW_MS)

    def test_there_may_be_nothing(self, tmp_path):
        """No folder is created."""
        assert prune_ledger(tmp_path / "none", keep_days=1, now_ms=NOW_MS).removed == ()
        assert not (tmp_path / "none").exists()
