"""The cursors table: where consumers keep their cursors."""
