"""The simulated exchange as an HTTP server, with scripted faults."""
