"""What things cost: `python -m bench [NAME...]` prints figures beside what we aim at.

Figures are printed, never asserted: a benchmark that fails a build on a busy machine is noise.
Every benchmark runs in a process of its own, so that memory figures mean something.
"""
