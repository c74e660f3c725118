"""Retention: deleting old events, in batches or by partitions, and measuring the backlogs of consumers."""
