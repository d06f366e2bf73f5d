"""The figures by name."""

from __future__ import annotations

import again
import crowd
import degenerate
import halts
import hostile
import kill
import ledger
import mutate

FIGURES = {
    "durability": kill.durability,
    "kill-points": kill.kill_points,
    "io-errors": kill.io_errors,
    "mutations": mutate.mutations,
    "journal": mutate.journals,
    "tampering": mutate.tampering,
    "forgeries": mutate.forgeries,
    "hostile": hostile.artefacts,
    "places": hostile.places,
    "crowd": crowd.writers_and_readers,
    "trainings": crowd.trainings,
    "halt-mutations": halts.mutations,
    "halt-lasts": halts.lasting,
    "halt-under-load": halts.under_load,
    "halt-after-stop": halts.stopped,
    "interrupts": crowd.interrupts,
    "growth": crowd.growth,
    "ledger": ledger.storm,
    "degenerate": degenerate.sets,
    "reproducibility": again.reproducibility,
    "resume": again.resume,
}
NEED_STRACE = {"durability", "kill-points", "io-errors"}
