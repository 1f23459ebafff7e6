"""What every package shares: keys, identities, problems, resources, the clock, secrets.

Imports nothing of Meltemi. Everything here is a frozen value or a protocol.
"""
