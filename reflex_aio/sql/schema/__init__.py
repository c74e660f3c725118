"""Tables: their names, their DDL, and the comparison with real ones."""
