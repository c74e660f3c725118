"""Cursors and leases in tables, as the stores that runs and runners use."""
