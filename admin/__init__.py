"""Minting and revoking: the use cases and their faces. Imports nothing of ours but store."""
