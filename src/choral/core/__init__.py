"""Values and protocols: the pure middle of Choral. Imports numpy and nothing of ours."""
