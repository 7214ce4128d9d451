"""What clients/bulk_embed.py is made of; docs/bulk.md has which module does what."""
