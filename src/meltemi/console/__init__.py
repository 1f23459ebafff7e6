"""The console: read models over the mesh and its traffic, their HTTP API, the single-page app."""
