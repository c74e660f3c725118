"""Tables: their names and columns, the statements that create them, and the comparison with existing tables."""
