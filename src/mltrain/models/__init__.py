"""Booster to judged, stored, served version."""
