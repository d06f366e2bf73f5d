"""Stored versions: publishing, promotion, pointers, signatures, listing."""
