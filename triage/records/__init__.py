"""What is kept: tables, and the verbs on them. The only rooms that know the database library."""
