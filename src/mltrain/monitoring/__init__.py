"""Monitoring of what is served: the ledger of all answers."""
