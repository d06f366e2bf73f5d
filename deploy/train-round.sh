#!/usr/bin/env bash
# One round for a scheduler: newest candles, training, verdict. Run by the crontab, the systemd timer, or by hand.
#
#   MLTRAIN            the program (default: mltrain on the PATH)
#   MLTRAIN_DATA_DIR   the data folder (default: data)
#   SNAPSHOT_OPTIONS   (default: --days 90)
#   TRAIN_OPTIONS      (default: --trials 200)
#
# Writes one JSON line per step to stderr; with MLTRAIN_LOG_FORMAT=json, mltrain's own lines have the same format. The
# exit code is that of mltrain: 0 GO, 4 NO-GO (the live version stays), 6 the exchange failed, 7 another round is in
# progress; 3, 5 and 8 need a person. Two rounds cannot run at once: mltrain holds a lock during a download and a
# training, so the second round ends with 7. After a round that was killed, the next one continues: downloaded days and
# completed trials are kept (--resume).
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

# shellcheck disable=SC2086 # the options must be split into words
step snapshot snapshot ${SNAPSHOT_OPTIONS:---days 90} || exit
# shellcheck disable=SC2086
step train train --resume ${TRAIN_OPTIONS:---trials 200}
