"""`status`: what is live, how old everything is, and what is overdue or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mltrain.api.workspace import DATA_DIR, check_path, open_store, read_clock

if TYPE_CHECKING:
    from mltrain.api.workspace import PathText
    from mltrain.monitoring.status import Status


def status(
    *,
    config: PathText | Mapping[str, Any] | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    now_ms: int | None = None,
) -> Status:
    """Return the state of operation of a data folder; nothing is written.

    Damage of a part is among the result's problems, and no error.

    Args:
        config: Settings that override those of the packaged `operate.yml`: a file, or a mapping.
        data_dir: The data folder.
        slot: The only slot to look at; None: every one.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: The name of the slot is outside the grammar of slots.
        InputError: The configuration is wrong, or there is no data folder.
    """
    from mltrain.config.loading import load_operate_config
    from mltrain.monitoring.status_reader import find_status

    given = config if config is None or isinstance(config, Mapping) else check_path(config, "config")
    limits = load_operate_config(given)
    return find_status(open_store(data_dir, slot), limits, now_ms=read_clock(now_ms), slot=slot)
