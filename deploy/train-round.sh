#!/usr/bin/env bash
# One round for a scheduler: the newest candles, a training, a verdict. Run by the crontab, the timer and by hand.
#
#   MLTRAIN            the program (default: mltrain on the PATH)
#   MLTRAIN_DATA_DIR   the data folder (default: data)
#   SNAPSHOT_OPTIONS   (default: --days 90)
#   TRAIN_OPTIONS      (default: --trials 200)
#
# One line of JSON a step on stderr, and with MLTRAIN_LOG_FORMAT=json mltrain's own lines are of the same kind. The exit code is mltrain's own: 0 GO, 4 NO-GO (the
# version that is served stays), 6 the exchange, 7 another round is under way, 3, 5 and 8 something to look at.
# Two rounds cannot meet: mltrain holds a lock over a download and over a training, and the second one ends with 7.
# A round that was killed goes on where it was: the downloaded days and the told trials are kept (--resume).
set -uo pipefail

mltrain=${MLTRAIN:-mltrain}

step() {
  local name=$1 begun=$SECONDS code=0
  shift
  "$mltrain" "$@" >/dev/null || code=$?
  printf '{"time": "%s", "level": "info", "event": "round", "step": "%s", "exit": %d, "seconds": %d}\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$name" "$code" $((SECONDS - begun)) >&2
  return "$code"
}

# shellcheck disable=SC2086 # the options are words
step snapshot snapshot ${SNAPSHOT_OPTIONS:---days 90} || exit
# shellcheck disable=SC2086
step train train --resume ${TRAIN_OPTIONS:---trials 200}
