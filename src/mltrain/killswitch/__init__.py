"""The kill switch: stop serving in every process at once, and stay stopped until somebody resumes it."""
