"""Answers over HTTP: predictions, what is served, health, metrics and a page for people."""
