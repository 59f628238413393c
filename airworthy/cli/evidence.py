"""Commands about the evidence behind a version: its dossier, and whether it can be made again."""
