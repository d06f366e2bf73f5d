"""`sentinel`: evaluate the triggers of the kill switch, once or for as long as the process runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mltrain.api.workspace import DATA_DIR, check_path, open_store, read_clock, read_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.config.halt_config import HaltConfig
    from mltrain.monitoring.sentinel import SentinelStep


def sentinel(
    *,
    config: PathText | Mapping[str, Any] | None = None,
    data_dir: PathText = DATA_DIR,
    now_ms: int | None = None,
) -> SentinelStep:
    """Evaluate the triggers of every live version once, halt serving where one fires, and write a heartbeat.

    Args:
        config: Settings that override those of the packaged `halt.yml`: a file, or a mapping.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Returns:
        The evidence of every trigger, and what was halted. A ledger that cannot be read is a breach, and no error.

    Raises:
        InputError: The configuration is wrong, or there is no models folder, or it has no live version.
        MachineError: The machine refuses a halt or the heartbeat.
    """
    from mltrain.monitoring.sentinel import Sentinel

    moment_ms = read_clock(now_ms)
    watching = Sentinel(open_store(data_dir, None), _read_config(config), now_ms=moment_ms, is_running=False)
    rows, found = 0, watching.step(moment_ms)
    while not found.is_current:
        rows, found = rows + found.rows, watching.step(moment_ms)
    return replace(found, rows=rows + found.rows)


def run_sentinel(
    *,
    config: PathText | Mapping[str, Any] | None = None,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
    clock: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[SentinelStep]:
    """Return an iterator that evaluates the triggers again and again, and gives each evaluation that halted serving.

    Args:
        config: As in `sentinel`.
        data_dir: The data folder.
        progress: Receives a warning when an evaluation fails: it then writes no heartbeat, and goes on.
        clock: Returns seconds since 1970, as `time.time` does.
        wait: Called with the seconds to wait until the next evaluation.

    Returns:
        An iterator without an end.

    Raises:
        InputError: The configuration is wrong, or there is no models folder, or it has no live version.
        MachineError: The machine refuses to read the models folder.
    """
    from mltrain.monitoring.sentinel import Sentinel, run

    settings = _read_config(config)
    watching = Sentinel(open_store(data_dir, None), settings, now_ms=int(clock() * 1000), is_running=True)
    return run(watching, read_progress(progress), every_s=settings.sentinel.every_s, clock=clock, wait=wait)


def _read_config(config: PathText | Mapping[str, Any] | None) -> HaltConfig:
    """Return the settings of a file or a mapping over the packaged ones."""
    from mltrain.config.loading import load_halt_config

    return load_halt_config(config if config is None or isinstance(config, Mapping) else check_path(config, "config"))
