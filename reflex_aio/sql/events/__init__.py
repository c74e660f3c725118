"""The events table: inserting events, and streaming them without a gap."""
