"""MySQL and MariaDB: their SQL, how their gaps are settled, and how their tables are made."""
