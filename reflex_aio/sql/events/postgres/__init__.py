"""PostgreSQL: its SQL, how its gaps are settled, and how its tables are made."""
