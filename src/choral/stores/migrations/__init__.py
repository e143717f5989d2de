"""Steps from one format of the tables to the next, in the order of their numbers."""
