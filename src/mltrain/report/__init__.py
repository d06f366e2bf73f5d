"""HTML pages about versions, and plots."""
