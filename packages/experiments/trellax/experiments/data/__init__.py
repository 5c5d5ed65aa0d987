"""Text that ships with the experiments: see README.md in this folder."""
