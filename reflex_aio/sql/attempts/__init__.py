"""Failed attempts at handling events in a table, where they survive a restart of the consumer's process."""
