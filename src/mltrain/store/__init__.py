"""Stored versions: publishing, promotion, pointers, signatures, listing."""

from typing import Final

#: The environment variable that names the public key that versions must be signed with.
REQUIRE_VARIABLE: Final = "MLTRAIN_REQUIRE_SIGNATURE"
