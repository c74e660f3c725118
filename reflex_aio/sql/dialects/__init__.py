"""Dialects: what differs between databases, whichever library talks to them. All SQL text is here."""
