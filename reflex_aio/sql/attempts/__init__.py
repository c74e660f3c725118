"""The attempts table: failed attempts that outlive the process."""
