"""Telemetry: the metrics of every proxy, kept for a while, and the traffic they tell of.

`parse` reads pages, `store` keeps counters, `scrape` fetches, `traffic` turns counters into
who calls whom. All but `scrape` is pure.
"""
