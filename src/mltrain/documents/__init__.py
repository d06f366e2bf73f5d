"""Strict JSON and YAML: bytes in, plain values out, or one error that names every violation."""
