"""Leases in a table: a lease lets one process at a time run a consumer."""
