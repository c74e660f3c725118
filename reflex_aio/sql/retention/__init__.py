"""Deleting old events, and measuring backlogs."""
