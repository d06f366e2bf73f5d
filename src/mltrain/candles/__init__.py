"""Exchange to immutable snapshot."""
