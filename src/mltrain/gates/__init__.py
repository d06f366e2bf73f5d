"""GO or NO-GO: a pure verdict over evidence."""
