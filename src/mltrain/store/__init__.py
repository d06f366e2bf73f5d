"""Stored versions: publishing, promotion, pointers, signatures, listing."""

from typing import Final

#: The environment variable that names the public key that versions must be signed with.
REQUIRE_VARIABLE: Final = "MLTRAIN_REQUIRE_SIGNATURE"
#: The hint of every error about a lost or damaged pointer.
REPAIR_HINT: Final = "run `mltrain models repair`"
