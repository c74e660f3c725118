"""Dead letters in a table: events on which consumers failed, with the error of each."""
