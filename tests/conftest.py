"""What all tests share."""

from hypothesis import settings

# How long an example takes depends on who else uses the machine; pytest's timeout bounds tests.
settings.register_profile("meltemi", deadline=None)
settings.load_profile("meltemi")
