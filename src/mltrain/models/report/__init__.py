"""The pages of a version: its report, an index of all versions, and what differs between two; made of stored files."""
