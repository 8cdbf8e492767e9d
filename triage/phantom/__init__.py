"""Synthetic chest films of children: for demonstrations and tests, where real ones must not be."""
