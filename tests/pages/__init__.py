"""Every example of the README, the docs and the folder of examples runs."""
