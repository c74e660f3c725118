"""The leases table: which replica of a service runs a consumer."""
